"""A stored file as an HTTP answer: ranges, ETag, conditional requests, a sensible file name."""

import re
import unicodedata
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from farm.api.errors import error_json
from farm.domain.errors import FarmError
from farm.domain.job import Job
from farm.storage.store import Store

_ADDRESS_LIFE = 3600.0  # seconds, long enough for the slowest download to begin and a player to seek


class Gone(FarmError):
    """The database knows the file, the store does not have it any more."""

    code = "content_gone"
    status = 410


class RangeNotSatisfiable(FarmError):
    code = "range_not_satisfiable"
    status = 416


def stored(
    request: Request,
    store: Store,
    key: str,
    *,
    media_type: str,
    etag: str,
    name: str,
    download: bool = False,
    redirect: bool = False,
) -> Response:
    """The file under `key`, or the part of it that the Range header asks for.

    `redirect`: not the file but the store's own address of it, where it has one.
    """
    tag = f'"{etag}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        # A video's key never changes its bytes; its job may be hidden, so caches ask again.
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _disposition(name, download),
        "X-Content-Type-Options": "nosniff",
    }
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    size = store.size(key)
    if size is None:
        raise Gone("the file of this job is no longer in the store", "rerun the job")
    elsewhere = store.url(key, _ADDRESS_LIFE, headers["Content-Disposition"]) if redirect else None
    if elsewhere is not None:
        # The address ends; nobody may keep it for later.
        return RedirectResponse(elsewhere, 307, {"Cache-Control": "no-store"})
    try:
        part = _range(request, tag, size)
    except RangeNotSatisfiable as error:
        return JSONResponse(error_json(error), 416, {**headers, "Content-Range": f"bytes */{size}"})
    if part is None:
        return StreamingResponse(
            store.open(key), 200, {**headers, "Content-Length": str(size)}, media_type=media_type
        )
    start, end = part
    headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    return StreamingResponse(store.open(key, start, end), 206, headers, media_type=media_type)


def file_name(job: Job, extension: str) -> str:
    """What people find in their downloads folder: the prompt's words, the seed, the id."""
    words = re.sub(r"[^\w]+", "-", unicodedata.normalize("NFC", job.spec.prompt)).strip("-_")[:48]
    return f"{words or 'video'}_{job.spec.seed}_{job.id[:8]}.{extension}"


def _range(request: Request, tag: str, size: int) -> tuple[int, int] | None:
    """start, end (exclusive) of a single range; None: send all. Raises RangeNotSatisfiable."""
    header = request.headers.get("range", "")
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.replace(" ", ""), re.ASCII)
    condition = request.headers.get("if-range")
    if found is None or found.groups() == ("", "") or (condition is not None and condition != tag):
        return None  # several ranges or nonsense: RFC 9110 allows the whole file
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable(f"the file has {size} bytes", "ask for a range inside it")
    return start, end


def matches(header: str | None, tag: str) -> bool:
    if header is None:
        return False
    tags = [part.strip().removeprefix("W/") for part in header.split(",")]
    return "*" in tags or tag in tags


def _disposition(name: str, download: bool) -> str:
    kind = "attachment" if download else "inline"
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace('"', "_")
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"
