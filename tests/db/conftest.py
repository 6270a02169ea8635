"""A real database file per test, and a clock that only the test moves."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from farm.db import jobs, workers
from farm.db.engine import Database, migrate, open_database
from farm.domain.job import Artifact, JobSpec, NewJob
from farm.domain.worker import NewWorker


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


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a migrated, empty database: migrating once is enough for all tests."""
    path = tmp_path_factory.mktemp("db") / "farm.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def url(tmp_path: Path, migrated: bytes) -> str:
    path = tmp_path / "farm.db"
    path.write_bytes(migrated)
    return f"sqlite:///{path}"


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
