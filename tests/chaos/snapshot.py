"""The whole state of the protocol's tables at one moment, read past the code that is under test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from farm.db.engine import Database
from farm.domain.states import ACTIVE, FINAL, JobState

Key = tuple[str, int]  # job, epoch


class JobRow(NamedTuple):
    id: str
    seq: int
    state: JobState
    epoch: int
    failures: int
    cancel_requested_at: Any
    artifact: Any
    error: Any
    started_at: Any
    finished_at: Any
    hidden_at: Any
    priority: int
    lane: str
    spec: str
    idempotency_key: str | None

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def cancelling(self) -> bool:
        return self.cancel_requested_at is not None

    def is_claim(self, epoch: int) -> bool:
        return self.epoch == epoch


class LeaseRow(NamedTuple):
    job: str
    epoch: int
    worker: str
    expires_at: Any
    stage: str | None
    k: int


class AttemptRow(NamedTuple):
    job: str
    epoch: int
    worker: str
    outcome: str | None
    cause: str | None
    started_at: datetime | None
    finished_at: datetime | None


class EventRow(NamedTuple):
    id: int
    kind: str
    subject: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    jobs: Mapping[str, JobRow]
    leases: Mapping[str, LeaseRow]
    attempts: Mapping[Key, AttemptRow]
    lanes: Mapping[str, float]  # virtual time
    news: tuple[EventRow, ...]  # since the snapshot before

    def changed(self, other: "Snapshot") -> set[str]:
        """The jobs that are not the same in both."""
        found = {job for job in self.jobs.keys() | other.jobs.keys() if self.jobs.get(job) != other.jobs.get(job)}
        found |= {job for job, lease in self.leases.items() if other.leases.get(job) != lease}
        found |= {job for job in other.leases if job not in self.leases}
        found |= {key[0] for key, row in self.attempts.items() if other.attempts.get(key) != row}
        return found | {key[0] for key in other.attempts if key not in self.attempts}

    def same(self, other: "Snapshot") -> bool:
        """Nothing at all has happened between the two."""
        return (self.jobs, self.leases, self.attempts, self.lanes) == (
            other.jobs, other.leases, other.attempts, other.lanes,
        ) and not other.news  # fmt: skip


_TABLES: tuple[tuple[str, type[Any]], ...] = (("jobs", JobRow), ("leases", LeaseRow), ("attempts", AttemptRow))


def take(db: Database, after: int) -> Snapshot:
    """`after`: the number of the last event that is known."""
    rows: dict[str, list[Any]] = {}
    with db.read() as conn:
        for table, kind in _TABLES:
            found = conn.exec_driver_sql(f"SELECT {', '.join(kind._fields)} FROM {table}")
            rows[table] = [kind(*row) for row in found]
        lanes = {row[0]: row[1] for row in conn.exec_driver_sql("SELECT id, virtual_time FROM lanes")}
        news = [
            EventRow(number, kind, subject, plain(data))
            for number, kind, subject, data in conn.exec_driver_sql(
                f"SELECT id, kind, subject, data FROM events WHERE id > {after} ORDER BY id"
            )
        ]
    jobs = {row.id: row._replace(state=JobState(row.state), artifact=plain(row.artifact)) for row in rows["jobs"]}
    return Snapshot(
        jobs,
        {row.job: row for row in rows["leases"]},
        {(row.job, row.epoch): row for row in rows["attempts"]},
        lanes,
        tuple(news),
    )


def plain(value: Any) -> Any:
    """JSON comes as text from one database and as objects from the other."""
    return json.loads(value) if isinstance(value, str) else value
