"""What a request says: JSON or a form, as one plain mapping, with a limit on its size."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from farm.api.errors import BadBody, BodyTooLarge

MAX_BODY = 16 * 2**20


async def read_body(request: Request) -> dict[str, Any]:
    """The fields of a request. Raises BadBody or BodyTooLarge."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = await _read(request)
    if kind in {"multipart/form-data", "application/x-www-form-urlencoded"}:
        return await _form(request)
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"the body is not JSON: {error}", 'send an object such as {"prompt": "..."}') from None
    if not isinstance(value, dict):
        raise BadBody("the body is not a JSON object", 'send an object such as {"prompt": "..."}')
    return cast("dict[str, Any]", value)


async def _read(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise BodyTooLarge(f"the body is larger than {MAX_BODY >> 20} MiB", "send it in parts")
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
        fields[name] = (value.filename or "file") if isinstance(value, UploadFile) else value
    return fields


Body = Annotated[dict[str, Any], Depends(read_body)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key")]


def take_flag(body: Mapping[str, Any], name: str) -> bool:
    return body.get(name) in {True, "true", "1", "on"}
