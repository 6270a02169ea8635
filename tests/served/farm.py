"""Fixtures: services on a fresh database, a client without a network, and a server on a loopback port."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from farm.api.app import create_app
from farm.api.services import Services
from farm.db.engine import migrate, open_database
from farm.domain.request import Models
from farm.storage.folder import FolderStore
from model.wan.config import PRESETS
from tests.served.machine import Machine


@dataclass
class Pokes:
    """Counts the pokes: each durable change must wake the dispatcher."""

    count: int = 0

    def __call__(self) -> None:
        self.count += 1


@dataclass
class Served:
    """A farm on a loopback port, which can be stopped and started again on the same one."""

    services: Services
    port: int = 0
    _server: uvicorn.Server | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen()  # from here on a request waits instead of being refused
        self.port = listening.getsockname()[1]
        self.services.stopping.clear()
        self.app = create_app(self.services)
        config = uvicorn.Config(self.app, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self.services.stopping.set()
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def migrated_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("served") / "farm.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def services(tmp_path: Path, migrated_bytes: bytes) -> Iterator[Services]:
    with services_in(tmp_path, migrated_bytes) as made:
        yield made


@contextmanager
def services_in(folder: Path, migrated_bytes: bytes) -> Iterator[Services]:
    """On a fresh database and store in this folder; the demo model is offered."""
    path = folder / "farm.db"
    path.write_bytes(migrated_bytes)
    db = open_database(f"sqlite:///{path}")
    demo = PRESETS["demo-t2v"]
    models = Models({demo.name: demo}, demo.name, lambda preset: "digest")
    yield Services(
        db=db,
        store=FolderStore(folder / "store"),
        models_now=lambda: models,
        poke=Pokes(),
        hosts=("127.0.0.1", "localhost", "testserver"),
    )
    db.close()


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services)) as client:
        yield client


@pytest.fixture
def machine(services: Services) -> Machine:
    return Machine(services.db, services.store)


@pytest.fixture
def served(services: Services) -> Iterator[Served]:
    farm = Served(services)
    farm.start()
    yield farm
    farm.stop()
