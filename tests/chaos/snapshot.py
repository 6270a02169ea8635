"""The whole state of the protocol's tables at one moment, read past the code that is under test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from farm.db.engine import Database
from farm.domain.states import ACTIVE, FINAL, JobState

Key = tuple[str, int]  # job, epoch


class JobRow(NamedTuple):
    id: str
    seq: int
    owner: str
    batch: str | None
    state: JobState
    epoch: int
    failures: int
    pardoned: int
    memory_plan: int
    avoid: Any
    rest_until: Any
    not_before: Any
    cancel_requested_at: Any
    artifact: Any
    error: Any
    expanded_prompt: str | None
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


class LeaseRow(NamedTuple):
    job: str
    epoch: int
    worker: str
    expires_at: Any
    renewed_at: Any
    stage: str | None
    k: int


class AttemptRow(NamedTuple):
    job: str
    epoch: int
    worker: str
    gpu: str
    outcome: str | None
    blamed: Any
    cause: str | None
    started_at: Any
    finished_at: Any


class LaneRow(NamedTuple):
    id: str
    virtual_time: float
    closed_reason: str | None


class WorkerRow(NamedTuple):
    id: str
    node: str
    gpu: str
    wish: str
    wish_now: Any
    state: str
    heartbeat_at: Any
    ended_at: Any


class NodeRow(NamedTuple):
    node: str
    wish: str | None
    wish_now: Any
    heartbeat_at: Any


class QuarantineRow(NamedTuple):
    gpu: str
    until: Any
    released_at: Any


class NeedRow(NamedTuple):
    job: str
    needs: str
    mode: str


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
    lanes: Mapping[str, LaneRow]
    workers: Mapping[str, WorkerRow]
    nodes: Mapping[str, NodeRow]
    quarantines: Mapping[str, QuarantineRow]
    needs: tuple[NeedRow, ...]
    news: tuple[EventRow, ...] = field(compare=False)  # since the snapshot before

    def changed(self, other: "Snapshot") -> set[str]:
        """The jobs that are not the same in both, with their leases and attempts."""
        found = _differ(self.jobs, other.jobs) | _differ(self.leases, other.leases)
        return found | {job for job, _ in _differ(self.attempts, other.attempts)}

    def same(self, other: "Snapshot") -> bool:
        """Nothing at all has happened between this and the later one."""
        return self == other and not other.news


def _differ(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> set[Any]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


_TABLES: Mapping[str, tuple[str, type[Any]]] = {
    "jobs": ("jobs", JobRow), "leases": ("leases", LeaseRow), "attempts": ("attempts", AttemptRow),
    "lanes": ("lanes", LaneRow), "workers": ("workers", WorkerRow), "nodes": ("nodes", NodeRow),
    "quarantines": ("quarantines", QuarantineRow), "needs": ("dependencies", NeedRow),
}  # fmt: skip
_SELECTS = {name: f"SELECT {', '.join(kind._fields)} FROM {table}" for name, (table, kind) in _TABLES.items()}
# A round trip costs more than all that it brings.
_AT_ONCE = "SELECT json_build_object({})".format(
    ", ".join(
        f"'{name}', (SELECT coalesce(json_agg(json_build_array({', '.join(kind._fields)})), '[]') FROM {table})"
        for name, (table, kind) in _TABLES.items()
    )
)


def take(db: Database, after: int) -> Snapshot:
    """`after`: the number of the last event that is known."""
    with db.read() as conn:
        if db.dialect == "sqlite":
            found: Mapping[str, Any] = {name: conn.exec_driver_sql(text) for name, text in _SELECTS.items()}
        else:
            found = conn.exec_driver_sql(_AT_ONCE).scalar_one()
        rows = {name: [kind._make(row) for row in found[name]] for name, (_, kind) in _TABLES.items()}
        news = [
            EventRow(number, kind, subject, plain(data))
            for number, kind, subject, data in conn.exec_driver_sql(
                f"SELECT id, kind, subject, data FROM events WHERE id > {after} ORDER BY id"
            )
        ]
    return Snapshot(
        {row.id: _decoded(row) for row in rows["jobs"]},
        {row.job: row for row in rows["leases"]},
        {(row.job, row.epoch): row for row in rows["attempts"]},
        {row.id: row for row in rows["lanes"]},
        {row.id: row for row in rows["workers"]},
        {row.node: row for row in rows["nodes"]},
        {row.gpu: row for row in rows["quarantines"]},
        tuple(sorted(rows["needs"])),
        tuple(news),
    )


def _decoded(row: JobRow) -> JobRow:
    return row._replace(
        state=JobState(row.state), artifact=plain(row.artifact), error=plain(row.error), avoid=plain(row.avoid)
    )


def plain(value: Any) -> Any:
    """JSON comes as text from one database and as objects from the other."""
    return json.loads(value) if isinstance(value, str) else value


def time_of(value: Any) -> datetime:
    """A time comes as text from one database and with a zone from the other."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
