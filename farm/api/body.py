"""What a request says: JSON or a form, as one plain mapping, with a limit on its size."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from farm.api.errors import BadBody, BodyTooLarge

MAX_BODY = 16 * 2**20
MAX_FILE_BODY = 33 * 2**20  # the largest image, and the form around it
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\]){1,3})")
_PART = re.compile(r"\[([^\[\]]*)\]")
_FORMS = {"multipart/form-data", "application/x-www-form-urlencoded"}


@dataclass(frozen=True)
class Upload:
    """A file of a form; no name and no data where its field was left empty."""

    name: str
    data: bytes


async def read_body(request: Request) -> dict[str, Any]:
    """The fields of a request, read once however many ask. Raises BadBody or BodyTooLarge."""
    if not hasattr(request.state, "fields"):
        request.state.fields = await _fields(request)
    return dict(request.state.fields)


async def read_form_token(request: Request) -> str:
    """What a page's form says of itself; it is no field of what people wish. Empty where there is none."""
    if _kind(request) not in _FORMS:
        return ""
    await read_body(request)
    return str(request.state.form_token)


async def _fields(request: Request) -> dict[str, Any]:
    kind = _kind(request)
    raw = await _read(request, MAX_FILE_BODY if kind == "multipart/form-data" else MAX_BODY)
    if kind in _FORMS:
        return await _form(request)
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"the body is not JSON: {error}", 'send an object such as {"prompt": "..."}') from None
    if not isinstance(value, dict):
        raise BadBody("the body is not a JSON object", 'send an object such as {"prompt": "..."}')
    fields = cast("dict[str, Any]", value)
    fields.pop("csrf", None)  # of a page's form that its script has sent as JSON
    return fields


async def read_file(request: Request) -> bytes:
    """The one file of a request: its body, or the only file of its form. Raises BadBody or BodyTooLarge."""
    if _kind(request) not in _FORMS:
        return await _read(request, MAX_FILE_BODY)
    files = [value for value in (await read_body(request)).values() if isinstance(value, Upload)]
    if len(files) != 1:
        raise BadBody("the form must have exactly one file", "send the image as the body, or as `image`")
    return files[0].data


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(f"the body is larger than {limit >> 20} MiB", "make it smaller")
        parts.append(part)
    request._body = b"".join(parts)  # pyright: ignore[reportPrivateUsage]  # Starlette's own cache for form()
    return request._body  # pyright: ignore[reportPrivateUsage]


async def _form(request: Request) -> dict[str, Any]:
    try:
        form = await request.form()
    except (HTTPException, ValueError, AssertionError) as error:
        raise BadBody(f"the form cannot be read: {error}", "send it as multipart/form-data or JSON") from None
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        said = Upload(value.filename or "", await value.read()) if isinstance(value, UploadFile) else value
        _put(fields, _parts(name), said)
    request.state.form_token = fields.pop("csrf", "")
    return fields


def _parts(name: str) -> list[str]:
    """tags[shot] is a part of tags, depends_on[] one more of a list: so clients write into forms what has parts."""
    found = _NAME.fullmatch(name)
    return [name] if found is None else [found[1], *_PART.findall(found[2])]


def _put(fields: dict[str, Any], parts: list[str], value: Any) -> None:
    first, *rest = parts
    if not rest:
        fields[first] = value
    elif rest == [""]:
        there = fields.setdefault(first, [])
        if not isinstance(there, list):
            raise BadBody(f"the form says {first} in two ways", "say it once")
        cast("list[Any]", there).append(value)
    else:
        inner = fields.setdefault(first, {})
        if not isinstance(inner, dict):
            raise BadBody(f"the form says {first} in two ways", "say it once")
        _put(cast("dict[str, Any]", inner), rest, value)


Body = Annotated[dict[str, Any], Depends(read_body)]
FileBody = Annotated[bytes, Depends(read_file)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key")]


def take_flag(body: Mapping[str, Any], name: str) -> bool:
    return body.get(name) in {True, "true", "1", "on"}
