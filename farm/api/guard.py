"""The doorway of every request: whose page asks, and HEAD answered wherever GET is."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farm.api.errors import WrongHost, error_json


class Guard:
    """Refuses foreign host names (DNS rebinding) and foreign pages that post here, whether or not one signs in."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], any_host: bool = False) -> None:
        """`any_host`: it is reached by names and addresses that nobody has listed, and nobody is let in unknown."""
        self.app = app
        self.hosts = frozenset(hosts)
        self.any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refuse(scope)):
            await JSONResponse(error_json(refusal), refusal.status)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refuse(self, scope: Scope) -> WrongHost | None:
        headers = Headers(scope=scope)
        host = _name(f"//{headers.get('host', '')}")
        if host not in self.hosts and not self.any_host:
            return WrongHost(
                f"this farm does not answer to the name {host!r}",
                "open it as http://127.0.0.1, or add the name to FARM_HOSTS",
            )
        origin = headers.get("origin")
        own = {host} if self.any_host else self.hosts
        if origin is not None and scope["method"] not in {"GET", "HEAD"} and _name(origin) not in own:
            return WrongHost(f"a page of {origin!r} may not change this farm", "use the farm's own page")
        return None


class Head:
    """HEAD is GET without the body. Routes that never end (the event stream) declare their own."""

    def __init__(self, app: ASGIApp, endless: tuple[str, ...]) -> None:
        self.app = app
        self.endless = endless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or scope["path"] in self.endless:
            await self.app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, headers_only)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
