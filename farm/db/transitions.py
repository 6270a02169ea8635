"""One arrow of the state diagram = one guarded UPDATE, its event, and the books of the attempt it ends.

Every write of jobs.state goes through `move`; the rows it returns are the races it won.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, case, delete, select, update
from sqlalchemy.sql import ColumnElement

from farm.db import outbox
from farm.db.dialect import farm_now
from farm.db.tables import attempts, jobs, lanes, leases
from farm.domain.states import FINAL, JobState, Outcome, Transition

# What an event of a transition always says, changed or not: readers patch a page from it.
_ALWAYS = ("state", "epoch", "failures", "updated_at", "started_at", "finished_at")


def move(
    conn: Connection,
    arrow: Transition,
    *guards: ColumnElement[bool],
    worker: str | None = None,
    **values: Any,
) -> list[RowMapping]:
    """Take `arrow` wherever the guards hold. `worker`: whose claim this is about, None for people.

    The states are part of the WHERE clause, so of two callers exactly one finds the row as it was.
    """
    stmt = (
        update(jobs)
        .where(jobs.c.state.in_(sorted(arrow.sources)), *guards)
        .values(
            state=arrow.target,
            updated_at=farm_now(),
            finished_at=farm_now() if arrow.target in FINAL else None,
            **values,
        )
        .returning(jobs)
    )
    won = list(conn.execute(stmt).mappings())
    outbox.append(
        conn,
        [("job", row["id"], {name: row[name] for name in (*_ALWAYS, *values)} | {"worker": worker}) for row in won],
    )
    return won


def told(conn: Connection, row: RowMapping, *changed: str) -> None:
    """The event of a change that is no transition."""
    fields = ("state", "epoch", "updated_at", *changed)
    outbox.append(conn, [("job", row["id"], {name: row[name] for name in fields})])


def is_claim(job: str, epoch: int) -> ColumnElement[bool]:
    """The fence: a claim that has been superseded matches nothing."""
    return (jobs.c.id == job) & (jobs.c.epoch == epoch)


def worker_of(conn: Connection, job: str, epoch: int) -> str | None:
    return conn.scalar(select(attempts.c.worker).where(attempts.c.job == job, attempts.c.epoch == epoch))


def close_attempt(
    conn: Connection,
    job: str,
    epoch: int,
    outcome: Outcome,
    *,
    cause: str | None = None,
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
    blamed: bool = False,
) -> bool:
    """End the claim: its lease goes, its attempt gets an outcome, its lane pays for the seconds it ran.

    False: the attempt had been closed before, and stays as it was.
    """
    conn.execute(delete(leases).where(leases.c.job == job, leases.c.epoch == epoch))
    closed = conn.execute(
        update(attempts)
        # Closed once: the first account of an attempt is the one that its lane has paid for.
        .where(attempts.c.job == job, attempts.c.epoch == epoch, attempts.c.finished_at.is_(None))
        .values(
            outcome=outcome,
            cause=cause and cause.replace("\0", "?"),  # not every database can hold what a driver once said
            timings=dict(timings or {}),
            peak_memory=peak_memory,
            finished_at=farm_now(),
            blamed=blamed,
        )
        .returning(attempts.c.started_at, attempts.c.finished_at)
    ).one_or_none()
    if closed is None:
        return False
    if closed.started_at is not None:
        seconds = (closed.finished_at - closed.started_at).total_seconds()
        _charge(conn, job, max(0.0, seconds))
    return True


def reopen_as_success(
    conn: Connection, job: str, epoch: int, timings: Mapping[str, float], peak_memory: int | None
) -> None:
    """The one attempt that is accounted for twice: given up as lost, it came back with its video."""
    conn.execute(
        update(attempts)
        .where(attempts.c.job == job, attempts.c.epoch == epoch)
        .values(
            outcome=Outcome.SUCCEEDED,
            cause="delivered after it had been given up",
            timings=dict(timings),
            peak_memory=peak_memory,
            blamed=False,
        )
    )


def wake_lane(conn: Connection, lane: str) -> None:
    """Before a job joins an idle lane: a newcomer starts at the minimum of the busy lanes.

    Without it, an owner who was away for a week would own the farm until he had caught up.
    """
    unfinished = (JobState.QUEUED, JobState.LEASED, JobState.RUNNING)
    me = conn.execute(select(lanes).where(lanes.c.id == lane)).one()
    if conn.scalar(_some_job(lane, unfinished)):
        return
    busy = select(jobs.c.seq).where(jobs.c.lane == lanes.c.id, jobs.c.state.in_(unfinished)).exists()
    floor = conn.scalar(
        select(lanes.c.virtual_time)
        .where(lanes.c.cls == me.cls, lanes.c.id != lane, busy)
        .order_by(lanes.c.virtual_time)
        .limit(1)
    )
    if floor is not None:
        conn.execute(
            update(lanes)
            .where(lanes.c.id == lane)
            .values(virtual_time=case((lanes.c.virtual_time < floor, floor), else_=lanes.c.virtual_time))
        )


def _some_job(lane: str, states: tuple[JobState, ...]) -> Any:
    return select(jobs.c.seq).where(jobs.c.lane == lane, jobs.c.state.in_(states)).limit(1)


def _charge(conn: Connection, job: str, seconds: float) -> None:
    lane = select(jobs.c.lane).where(jobs.c.id == job).scalar_subquery()
    conn.execute(
        update(lanes).where(lanes.c.id == lane).values(virtual_time=lanes.c.virtual_time + seconds / lanes.c.weight)
    )
