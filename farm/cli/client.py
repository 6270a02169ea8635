"""The farm over HTTP: the standard library's client, one error class per way it can go wrong."""

import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.parse import quote, urlencode, urlsplit

from farm.cli.config import Profile, chosen
from farm.domain.errors import Exit, FarmError, FarmUnreachable

Json = dict[str, Any]

TIMEOUT = 30.0
SILENCE = 40.0  # seconds without the stream's heartbeat (every 15) after which the connection is dead


class Refused(FarmError):
    """What the server answered, word for word."""

    def __init__(self, status: int, error: Json) -> None:
        super().__init__(str(error.get("message", "the farm refused")), str(error.get("next", "")))
        self.code = str(error.get("code", "refused"))
        self.status = status
        self.field = error.get("field")
        self.rows: list[Json] = error.get("rows") or []
        if status in {400, 413, 415, 422} or self.code == "idempotency_conflict":
            self.exit = Exit.USAGE
        elif status in {401, 403, 429}:
            self.exit = Exit.NOT_SIGNED_IN
        else:
            self.exit = Exit.FAILED

    @property
    def temporary(self) -> bool:
        """The farm is there, and something that it stands on is away."""
        return self.status == 503


@dataclass(frozen=True)
class StreamEvent:
    """One server-sent event; `cursor` is where to resume after it."""

    kind: str
    data: Json
    cursor: str | None


class Client:
    """One farm. Connections are not kept: a command makes one or two requests."""

    def __init__(self, farm: Profile | str | None = None, timeout: float = TIMEOUT) -> None:
        """`farm`: its address, or a profile; None: as the environment and the profile in use say."""
        profile = chosen() if farm is None else Profile(farm) if isinstance(farm, str) else farm
        self.url = profile.url
        self._token = profile.token
        self.timeout = timeout
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or (port is None and ":" in parts.netloc[-6:])
        ):
            raise FarmUnreachable(
                f"FARM_URL is not an address: {self.url!r}", "set it to something like http://127.0.0.1:7860"
            )
        self._secure = parts.scheme == "https"
        self._host, self._port, self._base = parts.hostname, port, parts.path

    def get(self, path: str, **query: Any) -> Json:
        return self.request("GET", path, query=query)

    def post(self, path: str, body: Json | None = None, headers: dict[str, str] | None = None) -> Json:
        return self.request("POST", path, body=body or {}, headers=headers)

    def upload(self, path: str, data: bytes) -> Json:
        return self.request("POST", path, body=data)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Json | bytes | None = None,
        query: Json | None = None,
        headers: dict[str, str] | None = None,
    ) -> Json:
        response = self._send(method, path, body, query, headers)
        try:
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()
        return cast(Json, _parse(raw, self.url))

    def job(self, job_id: str) -> Json:
        return self.get(f"/api/jobs/{quote(job_id, safe='')}")

    def act(self, job_id: str, verb: str, body: Json | None = None) -> Json:
        return self.post(f"/api/jobs/{quote(job_id, safe='')}/{verb}", body)

    def jobs(self, limit: int | None = None, **query: Any) -> Iterator[Json]:
        """Every matching job, page by page, at most `limit`."""
        after, left = None, limit
        while left is None or left > 0:
            page = self.get("/api/jobs", after=after, limit=min(left or 200, 200), **query)
            yield from page["data"]
            left = None if left is None else left - len(page["data"])
            after = page["next"]
            if after is None:
                return

    def save(self, path: str, file: BinaryIO) -> int:
        """Writes a file of the farm into `file`; says how many bytes. A cut connection is an error."""
        response = self._send("GET", path, None, None, None)
        size = 0
        try:
            while chunk := response.read(1 << 20):
                size += len(chunk)
                file.write(chunk)
        except http.client.HTTPException as error:
            raise self._unreachable(error) from error
        finally:
            response.close()
        return size

    def events(self, after: str | None = None) -> Iterator[StreamEvent | None]:
        """The farm's event stream, for ever; None for a sign of life. Reconnects by itself.

        An event "open" tells of each new connection, and "away" that the farm answers but cannot serve now (its
        database is away).
        Raises FarmUnreachable when it cannot be opened again within `timeout` seconds.
        """
        cursor, lost_at = after, None
        while True:
            try:
                query = {"after": cursor} if cursor is not None else None
                response = self._send("GET", "/api/events", None, query, None, timeout=SILENCE)
                lost_at = None
                yield StreamEvent("open", {}, None)
                for event in _parse_stream(response):
                    if event is not None:
                        cursor = event.cursor or cursor
                    yield event
            except Refused as error:
                if not error.temporary:
                    raise
                lost_at = None  # it answers: it is there, and will be well again
                yield StreamEvent("away", {"says": error.message}, None)
            except (FarmUnreachable, OSError, http.client.HTTPException) as error:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > self.timeout:
                    raise self._unreachable(error) from error
            time.sleep(0.5)  # the pace of reconnecting

    def _send(
        self,
        method: str,
        path: str,
        body: Json | bytes | None,
        query: Json | None,
        headers: dict[str, str] | None,
        timeout: float | None = None,
    ) -> http.client.HTTPResponse:
        given = {k: v for k, v in (query or {}).items() if v is not None}
        target = f"{self._base}{path}{'?' + urlencode(given, doseq=True) if given else ''}"
        sent = {"Accept": "application/json", "Connection": "close", **(headers or {})}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        data = None
        if isinstance(body, bytes):
            data, sent["Content-Type"] = body, "application/octet-stream"
        elif body is not None:
            data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
            sent["Content-Type"] = "application/json"
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout or self.timeout)
        try:
            connection.request(method, target, data, sent)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        if response.status >= 400:
            raw = response.read()
            response.close()
            answer = _parse(raw, self.url)
            error: object = cast(Json, answer).get("error") if isinstance(answer, dict) else None
            if not isinstance(error, dict):
                raise self._unreachable(f"it answered {response.status} in another language")
            raise Refused(response.status, cast(Json, error))
        if response.status in {301, 302, 307, 308} and method == "GET":
            response.close()
            return self._elsewhere(response.headers.get("Location", ""), timeout)
        return response

    def _elsewhere(self, address: str, timeout: float | None) -> http.client.HTTPResponse:
        """Where the farm sends those who read its videos. That place need not know who we are: it gets no token."""
        there = urlsplit(address)
        if there.scheme not in {"http", "https"} or not there.hostname:
            raise self._unreachable(f"it sends us to {address!r}")
        kind = http.client.HTTPSConnection if there.scheme == "https" else http.client.HTTPConnection
        connection = kind(there.hostname, there.port, timeout=timeout or self.timeout)
        try:
            connection.request("GET", f"{there.path}{'?' + there.query if there.query else ''}")
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(f"{there.hostname}, where it keeps its videos, does not answer") from error
        if response.status != 200:
            response.close()
            raise self._unreachable(f"{there.hostname}, where it keeps its videos, answered {response.status}")
        return response

    def _unreachable(self, why: object) -> FarmUnreachable:
        said = getattr(why, "strerror", None) or str(why) or type(why).__name__
        return FarmUnreachable(
            f"no farm answers at {self.url}: {said}",
            "start one here with `farm up`, or set FARM_URL to the address of yours",
        )


def _parse(raw: bytes, url: str) -> Any:
    try:
        return json.loads(raw) if raw else {}
    except ValueError:
        raise FarmUnreachable(
            f"what answers at {url} is not a farm", "set FARM_URL to the address of your farm"
        ) from None


def _parse_stream(response: http.client.HTTPResponse) -> Iterator[StreamEvent | None]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as this farm uses it."""
    cursor: str | None = None
    kind, data = "message", ""
    for raw in response:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            yield StreamEvent(kind, json.loads(data), cursor) if data else None
            kind, data = "message", ""
        elif name == "event":
            kind = value
        elif name == "data":
            data += value
        elif name == "id":
            cursor = value
