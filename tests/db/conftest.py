"""A real database per test, of each product in turn, and a clock that only the test moves."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from farm.db import jobs, workers
from farm.db.engine import Database, migrate, open_database
from farm.domain.job import Artifact, JobSpec, NewJob
from farm.domain.worker import NewWorker
from tests.private_servers import Server


@dataclass
class Clock:
    time: datetime = field(default_factory=lambda: datetime(2026, 11, 3, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def product(request: pytest.FixtureRequest) -> str:
    """Every test that uses a database runs on each."""
    return request.param


Make = Callable[[], str]


@pytest.fixture(scope="session")
def new_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], str]:
    folder = tmp_path_factory.mktemp("db")
    migrate(f"sqlite:///{folder}/template.db")
    template = (folder / "template.db").read_bytes()
    numbers = itertools.count()

    def make(migrated: bool) -> str:
        path = folder / f"{next(numbers)}" / "farm.db"
        path.parent.mkdir()
        if migrated:
            path.write_bytes(template)
        return f"sqlite:///{path}"

    return make


@pytest.fixture(scope="session")
def new_in_server(postgres: Server) -> Iterator[Callable[[bool], str]]:
    server = postgres.server
    # Other folders of tests import this fixture and have their own of it, on the same server.
    ours = secrets.token_hex(4)
    with psycopg.connect(server.url_of("postgres"), autocommit=True) as people:
        people.execute(f"CREATE DATABASE migrated_{ours}")
        migrate(server.url_of(f"migrated_{ours}"))
        names = (f"test_{ours}_{n}" for n in itertools.count())

        def make(migrated: bool) -> str:
            name = next(names)
            template = f"migrated_{ours}" if migrated else "template0"
            people.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
            return server.url_of(name)

        yield make


@pytest.fixture
def new_database(product: str, request: pytest.FixtureRequest) -> Callable[[bool], str]:
    """new_database(migrated) is the URL of a database of its own: migrating once is enough for all tests."""
    return request.getfixturevalue("new_file" if product == "sqlite" else "new_in_server")


@pytest.fixture
def fresh(new_database: Callable[[bool], str]) -> Iterator[Make]:
    """fresh() is a migrated, empty database; gone after the test."""
    yield from _made(new_database, True)


@pytest.fixture
def bare(new_database: Callable[[bool], str]) -> Iterator[Make]:
    """bare() is a database without any table; gone after the test."""
    yield from _made(new_database, False)


def _made(new_database: Callable[[bool], str], migrated: bool) -> Iterator[Make]:
    made: list[str] = []

    def make() -> str:
        made.append(new_database(migrated))
        return made[-1]

    yield make
    for url in made:
        if not url.startswith("sqlite"):
            server, _, name = url.rpartition("/")
            with psycopg.connect(f"{server}/postgres", autocommit=True) as people:
                people.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def url(fresh: Make) -> str:
    return fresh()


@pytest.fixture
def db(url: str, clock: Clock) -> Iterator[Database]:
    database = open_database(url, clock, busy_timeout=5)
    yield database
    database.close()


def spec(prompt: str = "a red kite over dunes", model: str = "demo-t2v", digest: str = "d1") -> JobSpec:
    return JobSpec("t2v", model, digest, prompt, 96, 96, 17, 12, 16, 7, 3.0)


def new_job(prompt: str = "a red kite over dunes", **kwargs) -> NewJob:
    spec_args = {k: kwargs.pop(k) for k in ("model", "digest") if k in kwargs}
    return NewJob(spec(prompt, **spec_args), **kwargs)


def submit_one(db: Database, prompt: str = "a red kite over dunes", **kwargs):
    (submitted,) = jobs.submit(db, [new_job(prompt, **kwargs)])
    return submitted.job


def register(db: Database, worker: str = "w1", node: str = "n1") -> str:
    workers.register(db, NewWorker(worker, node, f"gpu-{worker}", "Test GPU", 4711))
    return worker


LANE = "local/default/interactive/demo-t2v"


def video(job: str, epoch: int) -> Artifact:
    return Artifact(f"videos/{job}/{epoch}/video.mp4", "ab" * 32, 12345, 17, 17 / 12,
                    f"videos/{job}/{epoch}/poster.jpg")  # fmt: skip
