"""People's side of a job: find it, and cancel, hold, release, retry, move or hide it."""

from typing import Any

from sqlalchemy import Connection, func, select, update

from farm.db import rows, waiting
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.finding import counts, find, labels
from farm.db.submission import submit
from farm.db.tables import attempts as attempt_rows
from farm.db.tables import jobs
from farm.db.transitions import move, told, wake_lane
from farm.domain.errors import JobNotFound, StateConflict
from farm.domain.job import MAX_PRIORITY, Attempt, Dependency, Job
from farm.domain.states import (
    ACTIVE,
    CANCEL_WAITING,
    FINAL,
    HOLD,
    RELEASE,
    RELEASE_TO_WAIT,
    RETRY,
    RETRY_TO_WAIT,
    WAITING,
    JobState,
    Transition,
)

__all__ = [
    "attempts", "cancel", "counts", "dependents", "depends_on", "find", "get", "hide", "hold", "labels",
    "move_to_front", "position", "release", "retry", "set_priority", "submit",
]  # fmt: skip

SHORTEST_PREFIX = 6


def get(db: Database, job_id: str) -> Job:
    """The job of this id, or of the one id that begins so (6 characters at least, `job_` may be left out).

    Raises JobNotFound.
    """
    with db.read() as conn:
        return _read(conn, _resolve(conn, job_id))


def attempts(db: Database, job_id: str) -> list[Attempt]:
    """Every claim of the job, oldest first. Raises JobNotFound."""
    with db.read() as conn:
        stmt = select(attempt_rows).where(attempt_rows.c.job == _resolve(conn, job_id))
        return [rows.attempt(row) for row in conn.execute(stmt.order_by(attempt_rows.c.epoch)).mappings()]


def position(db: Database, job_id: str) -> int | None:
    """How many queued jobs of its lane go before it; None unless it is queued."""
    with db.read() as conn:
        me = conn.execute(select(jobs).where(jobs.c.id == _resolve(conn, job_id))).one()
        if me.state is not JobState.QUEUED:
            return None
        sooner = (jobs.c.priority > me.priority) | ((jobs.c.priority == me.priority) & (jobs.c.seq < me.seq))
        stmt = select(func.count()).where(jobs.c.state == JobState.QUEUED, jobs.c.lane == me.lane, sooner)
        return conn.scalar(stmt) or 0


def cancel(db: Database, job_id: str) -> Job:
    """Cancelled at once if it waits; asked to stop if a worker has it. Asking twice changes nothing."""
    with db.write() as conn:
        job_id = _held_still(conn, job_id)
        if not move(conn, CANCEL_WAITING, jobs.c.id == job_id):
            wished = (
                conn.execute(
                    update(jobs)
                    .where(
                        jobs.c.id == job_id,
                        jobs.c.state.in_(sorted(ACTIVE)),
                        jobs.c.cancel_requested_at.is_(None),  # the first wish counts
                    )
                    .values(cancel_requested_at=farm_now(), updated_at=farm_now())
                    .returning(jobs)
                )
                .mappings()
                .one_or_none()
            )
            if wished is not None:
                told(conn, wished, "cancel_requested_at")
            else:
                job = _read(conn, job_id)
                if job.state not in ACTIVE | {JobState.CANCELLED}:
                    raise _conflict(job, "cancelled")
        return _read(conn, job_id)


def hold(db: Database, job_id: str) -> Job:
    return _take(db, job_id, HOLD, "held")


def release(db: Database, job_id: str) -> Job:
    """Into the queue, now: even if it was to wait for a later time. What it depends on it still waits for."""
    return _take(db, job_id, RELEASE, "released", RELEASE_TO_WAIT, not_before=None, rest_until=None)


def retry(db: Database, job_id: str) -> Job:
    """Once more with a clean slate: the same row, at its next epoch.

    Raises StateConflict also where it waits for the success of a job that itself has yet to be retried.
    """
    return _take(
        db, job_id, RETRY, "retried", RETRY_TO_WAIT, failures=0, error=None, artifact=None, started_at=None,
        cancel_requested_at=None, rest_until=None, memory_plan=0, memory_above=None, avoid=None,
        pardoned=jobs.c.epoch,
    )  # fmt: skip


def depends_on(db: Database, job_id: str) -> list[Dependency]:
    """What the job waits for, or has waited for, and how each of them is. Raises JobNotFound."""
    with db.read() as conn:
        return waiting.depends_on(conn, _resolve(conn, job_id))


def dependents(db: Database, job_id: str) -> list[tuple[str, JobState]]:
    """The jobs that wait for this one, or have waited for it, and how each of them is. Raises JobNotFound."""
    with db.read() as conn:
        return waiting.dependents(conn, _resolve(conn, job_id))


def move_to_front(db: Database, job_id: str) -> Job:
    """A priority just above all that wait in its lane; the highest there is where they have that already.

    Raises StateConflict for a job that waits no more.
    """
    with db.read() as conn:
        job = _read(conn, _resolve(conn, job_id))
        others = select(func.max(jobs.c.priority)).where(
            jobs.c.lane == job.lane, jobs.c.state.in_(sorted(WAITING)), jobs.c.id != job.id
        )
        highest = conn.scalar(others)
    wanted = job.priority if highest is None else max(job.priority, min(highest + 1, MAX_PRIORITY))
    return set_priority(db, job.id, wanted)


def set_priority(db: Database, job_id: str, priority: int) -> Job:
    """Higher goes first within its lane. Only a job that still waits can be moved."""
    with db.write() as conn:
        job_id = _held_still(conn, job_id)
        moved = (
            conn.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(sorted(WAITING)))
                .values(priority=priority, updated_at=farm_now())
                .returning(jobs)
            )
            .mappings()
            .one_or_none()
        )
        if moved is None:
            raise _conflict(_read(conn, job_id), "moved")
        told(conn, moved, "priority")
        return _read(conn, job_id)


def hide(db: Database, job_id: str) -> Job:
    """Out of every list and lookup, for good; its idempotency key is free again. Only once it is over."""
    with db.write() as conn:
        job_id = _held_still(conn, job_id)
        job = _read(conn, job_id)
        hidden = (
            conn.execute(
                update(jobs)
                # A job on its way to cancelled may go too: nothing will be seen of it any more.
                .where(
                    jobs.c.id == job_id,
                    jobs.c.state.in_(sorted(FINAL)) | jobs.c.cancel_requested_at.is_not(None),
                )
                .values(hidden_at=farm_now(), updated_at=farm_now(), idempotency_key=None)
                .returning(jobs)
            )
            .mappings()
            .one_or_none()
        )
        if hidden is None:
            raise _conflict(job, "hidden")
        told(conn, hidden, "hidden_at")
        return job


def _take(
    db: Database, job_id: str, arrow: Transition, done: str, to_wait: Transition | None = None, **values: Any
) -> Job:
    """`to_wait`: the arrow of a job that still waits for others, where `arrow` would queue it."""
    with db.write() as conn:
        job_id = _held_still(conn, job_id)
        job = _read(conn, job_id)
        # Not for a job that stays where it is: `due` locks a lane before its scheduled jobs, we the job first.
        if arrow.target is JobState.QUEUED and job.state in arrow.sources:
            wake_lane(conn, job.lane)
        if to_wait is None:
            taken = move(conn, arrow, jobs.c.id == job_id, **values)
        else:
            _refuse_hopeless(conn, job_id, arrow)
            taken = move(conn, arrow, jobs.c.id == job_id, waiting.met(), **values)
            taken = taken or move(conn, to_wait, jobs.c.id == job_id, ~waiting.met(), **values)
        if not taken:
            raise _conflict(_read(conn, job_id), done)
        return _read(conn, job_id)


def _refuse_hopeless(conn: Connection, job_id: str, arrow: Transition) -> None:
    if _read(conn, job_id).state not in arrow.sources:
        return  # there is a plainer reason
    for one in waiting.depends_on(conn, job_id):
        if one.hopeless:
            deleted = conn.scalar(select(jobs.c.hidden_at).where(jobs.c.id == one.needs)) is not None
            raise StateConflict(
                f"job {job_id} waits for the success of {one.needs}, which is {one.state}",
                "that job was deleted: submit this one anew, without it"
                if deleted
                else f"retry {one.needs} first, then this one",
            )


def _held_still(conn: Connection, text: str) -> str:
    """The id, of a job that nobody else moves until we are done: what we read of it stays true."""
    job_id = _resolve(conn, text)
    still = select(jobs.c.seq).where(jobs.c.id == job_id, jobs.c.hidden_at.is_(None))
    if conn.scalar(still.with_for_update(key_share=True)) is None:  # deleted while we waited for it
        raise _unknown(text)
    return job_id


def _read(conn: Connection, job_id: str) -> Job:
    return rows.job(conn.execute(rows.select_jobs().where(jobs.c.id == job_id)).mappings().one())


def _resolve(conn: Connection, text: str) -> str:
    """The id that `text` is, or begins. A range and not LIKE: a range can use the index everywhere."""
    prefix = text if text.startswith("job_") else f"job_{text}"
    stmt = select(jobs.c.id).where(jobs.c.hidden_at.is_(None)).limit(2)
    exact = conn.scalar(stmt.where(jobs.c.id == text))
    if exact is not None:
        return exact
    found: list[str] = []
    if len(text) >= SHORTEST_PREFIX:
        found = list(conn.scalars(stmt.where(jobs.c.id >= prefix, jobs.c.id <= prefix + "z" * 12)))
    if len(found) > 1:
        raise JobNotFound(f"more than one job begins with {text!r}", "give more characters of its id")
    if not found:
        raise _unknown(text)
    return found[0]


def _unknown(text: str) -> JobNotFound:
    return JobNotFound(f"there is no job {text!r}", "see the jobs there are: farm list")


_POSSIBLE = {
    JobState.SCHEDULED: "it can be held or cancelled",
    JobState.QUEUED: "it can be held or cancelled",
    JobState.HELD: "it can be released or cancelled",
    JobState.LEASED: "it can be cancelled",
    JobState.RUNNING: "it can be cancelled",
    JobState.SUCCEEDED: "it can be downloaded, or submitted again",
    JobState.FAILED: "it can be retried",
    JobState.CANCELLED: "it can be retried",
}


def _conflict(job: Job, done: str) -> StateConflict:
    return StateConflict(f"job {job.id} is {job.state} and cannot be {done}", _POSSIBLE[job.state])
