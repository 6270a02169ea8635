"""A hub on a loopback port: serves files as Hugging Face and ModelScope do, and fails in every way asked for."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Repository:
    """Files by path. `large` ones have a sha256, the others git's sha1."""

    files: dict[str, bytes]
    small: set[str] = field(default_factory=set)


@dataclass
class FakeHub:
    """What it serves, and how it misbehaves; `asked` remembers every request."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # bytes after which the next file answers break off
    statuses: list[int] = field(default_factory=list)  # answers before the next good one
    knows_ranges: bool = True
    lies: dict[str, dict[str, Any]] = field(default_factory=dict)  # facts of the file list that are not true
    serves: dict[str, bytes] = field(default_factory=dict)  # what really comes for a path
    token: str | None = None
    elsewhere: str | None = None  # where large files are redirected to

    def add(self, name: str, files: dict[str, bytes], small: set[str] | None = None) -> None:
        self.repositories[name] = Repository(files, small or set())

    @property
    def ranges(self) -> list[str]:
        """The Range header of every request for a file."""
        return [headers.get("Range", "") for path, headers in self.asked if "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append((path, dict(self.headers.items())))
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.say(401, b"{}")
        if hub.statuses and "/resolve/" in path:
            return self.say(hub.statuses.pop(0), b"")
        for name, repository in hub.repositories.items():
            if path == f"/api/models/{name}/revision/main":
                return self.json({"sha": COMMIT})
            if path == f"/api/models/{name}/tree/{COMMIT}":
                return self.tree(repository)
            if path == f"/api/v1/models/{name}/repo/files":
                assert parse_qs(urlsplit(self.path).query)["Revision"] == ["master"]
                return self.json({"Code": 200, "Data": {"Files": self.scope(repository)}})
            for prefix in (f"/{name}/resolve/{COMMIT}/", f"/models/{name}/resolve/master/"):
                if path.startswith(prefix) and path.removeprefix(prefix) in repository.files:
                    file = path.removeprefix(prefix)
                    if hub.elsewhere is not None:
                        self.send_response(302)
                        self.send_header("Location", f"{hub.elsewhere}{path}")
                        self.send_header("Content-Length", "0")
                        return self.end_headers()
                    return self.file(hub.serves.get(file, repository.files[file]))
        return self.say(404, b"{}")

    def tree(self, repository: Repository) -> None:
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "assets", "oid": "0", "size": 0}]
        for path, content in repository.files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
            if path in repository.small:
                entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            else:
                entry |= {
                    "oid": "0" * 40,
                    "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)},
                }
            if path in self.hub.lies:
                entry = {**entry, "lfs": {**entry["lfs"], **self.hub.lies[path]}}
            entries.append(entry)
        page = int(parse_qs(urlsplit(self.path).query).get("page", ["0"])[0])
        body = json.dumps(entries[3 * page : 3 * page + 3]).encode()  # in pages, as a large repository comes
        self.send_response(200)
        if len(entries) > 3 * page + 3:
            path = urlsplit(self.path).path
            self.send_header("Link", f'<{self.hub.url}{path}?recursive=true&page={page + 1}>; rel="next"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def scope(self, repository: Repository) -> list[dict[str, Any]]:
        return [
            {"Path": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
            for path, content in repository.files.items()
        ]

    def file(self, content: bytes) -> None:
        first = 0
        asked = self.headers.get("Range")
        if asked and self.hub.knows_ranges:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        part = content[first:]
        if self.hub.cuts:
            part = part[: self.hub.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(part)
        self.wfile.flush()

    def json(self, value: Any) -> None:
        self.say(200, json.dumps(value).encode())

    def say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
