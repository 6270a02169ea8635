"""HTTP to the hubs: the standard library's client, proxies honoured, a token that never leaves its own host."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit

from farm.models.errors import HubRefused, HubUnreachable, NotOnHub

TIMEOUT = 60.0  # seconds without a byte
AGENT = "turbofarm/1.0"
PASSING = {408, 425, 429, 500, 502, 503, 504}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Passing(Exception):
    """A fault that another try may not meet. `wait`: seconds that the server asks for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """An open answer: read it in chunks, then close it."""

    status: int
    headers: HTTPMessage
    body: IO[bytes]


@dataclass(frozen=True)
class Web:
    """`token` goes to the host of `endpoint` alone, and over nothing that others can read."""

    endpoint: str
    token: str | None = field(default=None, repr=False)

    def open(self, url: str, first_byte: int = 0) -> Answer:
        """Raises Passing, NotOnHub, HubRefused, HubUnreachable."""
        try:
            request = urllib.request.Request(url, headers={"User-Agent": AGENT, "Accept-Encoding": "identity"})
        except ValueError:
            raise HubUnreachable(
                f"{self.endpoint!r} is no address", "set HF_ENDPOINT or MODELSCOPE_ENDPOINT to https://..."
            ) from None
        if first_byte:
            request.add_header("Range", f"bytes={first_byte}-")
        self.sign(request)
        opener = urllib.request.build_opener(_Redirects(self))
        try:
            answer = opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                raise self._meaning(error, url) from None
        except (OSError, HTTPException) as error:
            raise Passing(
                f"{_host(url)}: {getattr(error, 'reason', None) or error or type(error).__name__}"
            ) from None
        return Answer(answer.status, answer.headers, answer)

    def json(self, url: str) -> tuple[Any, HTTPMessage]:
        """Raises as `open`; what is no JSON is HubUnreachable."""
        answer = self.open(url)
        try:
            with answer.body as body:
                return json.loads(body.read()), answer.headers
        except ValueError:
            raise HubUnreachable(
                f"{_host(url)} does not answer like a hub", "is there a login page or proxy in between?"
            ) from None
        except (OSError, HTTPException) as error:
            raise Passing(f"{_host(url)}: {error}") from None

    def sign(self, request: urllib.request.Request) -> None:
        """Adds the token where it belongs. Unredirected: the next host must earn it anew."""
        there, home = urlsplit(request.full_url), urlsplit(self.endpoint)
        same = (there.scheme, there.hostname, there.port) == (home.scheme, home.hostname, home.port)
        if self.token and same and (there.scheme == "https" or there.hostname in _LOOPBACK):
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")

    def _meaning(self, error: urllib.error.HTTPError, url: str) -> Exception:
        if error.code in PASSING:
            after = error.headers.get("Retry-After", "")
            return Passing(f"{_host(url)} answers {error.code}", float(after) if after.isdecimal() else None)
        if error.code in {401, 403}:
            had = "with the token of HF_TOKEN" if self.token else "without a token"
            return HubRefused(
                f"{_host(url)} refuses {urlsplit(url).path} ({error.code}) {had}",
                "accept the model's licence on its page, and set HF_TOKEN to a token that may read it",
            )
        if error.code in {404, 410}:
            return NotOnHub(
                f"{_host(url)} has no {urlsplit(url).path}",
                "was it renamed? use --from with another hub or a folder",
            )
        return HubUnreachable(f"{_host(url)} answers {error.code} for {urlsplit(url).path}", "try another --from")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to other hosts (hubs keep large files elsewhere), without the token."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            self._web.sign(following)
        return following


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
