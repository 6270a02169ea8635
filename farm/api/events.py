"""`/api/events`: server-sent events; `id` is the cursor, Last-Event-ID or ?after= resumes."""

from typing import Annotated, cast

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from farm.api.stream import Hub

router = APIRouter(tags=["events"])

PATH = "/api/events"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(PATH)
async def events(
    request: Request,
    after: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """The header wins: a browser that reconnects keeps the address it first opened."""
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
        after = min(int(last_event_id[:19]), 2**62)
    hub = cast(Hub, request.app.state.hub)
    return StreamingResponse(hub.stream(after), headers=HEADERS, media_type="text/event-stream")


@router.head(PATH)
async def headers_only() -> Response:
    return Response(headers=HEADERS, media_type="text/event-stream")
