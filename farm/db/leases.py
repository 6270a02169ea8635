"""Machines' side of a job: claim, start, renew, and every way a claim ends. Fenced by (job, epoch)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

from sqlalchemy import Connection, case, insert, select, true, update
from sqlalchemy.sql import ColumnElement

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import attempts, jobs, lanes, leases, workers
from farm.db.transitions import close_attempt, is_claim, move, reopen_as_success, wake_lane, worker_of
from farm.domain.errors import DatabaseUnavailable
from farm.domain.job import Artifact, Assignment, JobError, JobSpec
from farm.domain.states import (
    ACTIVE,
    CANCEL_ACTIVE,
    CLAIM,
    DUE,
    FINISH,
    RECALL,
    REQUEUE,
    START,
    JobState,
    Order,
    Outcome,
    Transition,
    Wish,
)
from farm.domain.worker import Beat
from farm.scheduling.verdict import verdict

LOOK_AHEAD = 16  # how far a job may be overtaken by one whose weights the worker already holds
REAP_AT_ONCE = 500

T = TypeVar("T")


def claim(
    db: Database, worker_id: str, lane: str, ttl: float = 30.0, models: Sequence[str] = ()
) -> Assignment | None:
    """The lane's next job for this worker, leased for `ttl` seconds; None if there is none for it.

    `models`: digests resident in the worker; among equal priorities such a job goes first, within the
    lane's first 16. A worker that is gone, or wished to stop, gets nothing; no worker gets a job pinned to
    weights that it does not have.
    """
    with db.write() as conn:
        head = (
            select(jobs.c.id, jobs.c.model_digest)
            .where(jobs.c.state == JobState.QUEUED, jobs.c.lane == lane, _renderable(conn, worker_id, models))
            .order_by(jobs.c.priority.desc(), jobs.c.seq)
            .limit(LOOK_AHEAD)
            .cte("head")
        )
        resident = case((head.c.model_digest.in_(models), 0), else_=1)
        first = (
            select(jobs.c.id)
            .join(head, head.c.id == jobs.c.id)
            # Asked again of the row itself: it may have been claimed since `head` was read.
            .where(jobs.c.state == JobState.QUEUED)
            .order_by(jobs.c.priority.desc(), resident, jobs.c.seq)
            .limit(1)
            # Where writers run side by side, each takes the first row that no other is taking, and locks no more.
            .with_for_update(skip_locked=True, of=jobs)
            .cte("first")
        )
        won = move(
            conn,
            CLAIM,
            jobs.c.id == select(first.c.id).scalar_subquery(),
            select(lanes.c.id).where(lanes.c.id == lane, lanes.c.closed_reason.is_(None)).exists(),
            _willing(worker_id),
            worker=worker_id,
            epoch=jobs.c.epoch + 1,  # the fence: every earlier claim is void from here on
        )
        if not won:
            return None
        job, epoch = won[0]["id"], won[0]["epoch"]
        conn.execute(
            insert(leases).values(
                job=job, epoch=epoch, worker=worker_id, expires_at=farm_now(ttl), renewed_at=farm_now(),
                progress_at=farm_now(),
            )
        )  # fmt: skip
        gpu = conn.scalar(select(workers.c.gpu).where(workers.c.id == worker_id))
        conn.execute(
            insert(attempts).values(
                job=job,
                epoch=epoch,
                worker=worker_id,
                gpu=gpu,
                timings={},
                claimed_at=farm_now(),
            )
        )
        return Assignment(job, epoch, worker_id, JobSpec.from_json(won[0]["spec"]))


def start(db: Database, job: str, epoch: int) -> bool:
    """The worker begins to render. False: the claim is void, do nothing."""

    def act(conn: Connection) -> bool:
        if not move(conn, START, is_claim(job, epoch), worker=worker_of(conn, job, epoch), started_at=farm_now()):
            return False
        conn.execute(
            update(attempts).where(attempts.c.job == job, attempts.c.epoch == epoch).values(started_at=farm_now())
        )
        return True

    def already(conn: Connection) -> bool | None:
        stmt = select(jobs.c.id).where(is_claim(job, epoch), jobs.c.state == JobState.RUNNING)
        return True if conn.scalar(stmt) else None

    return _settled(db, act, already)


def renew(db: Database, beats: Sequence[Beat], ttl: float = 30.0) -> dict[tuple[str, int], Order]:
    """Prolong the leases of these beats and keep their progress; what each worker is to do now.

    LOST: the claim is void, stop and discard. One transaction; a beat without a job is skipped.
    """
    orders: dict[tuple[str, int], Order] = {}
    with db.write() as conn:
        # In one order everywhere: two who renew the same leases must not wait for each other in a ring.
        for beat in sorted(beats, key=lambda b: b.job or ""):
            if beat.job is None:
                continue
            orders[beat.job, beat.epoch] = _renew(conn, beat, beat.job, ttl)
    return orders


def _renew(conn: Connection, beat: Beat, job: str, ttl: float) -> Order:
    at = beat.progress
    shown = {} if at is None else {"stage": at.stage, "k": at.k, "n": at.n, "preview_step": at.preview_step}
    renewed = conn.execute(
        update(leases)
        # An expired lease may be renewed as long as the reaper has not taken it: nobody else has the job.
        .where(leases.c.job == job, leases.c.epoch == beat.epoch, leases.c.worker == beat.worker)
        .values(expires_at=farm_now(ttl), **shown)
    )
    if renewed.rowcount == 0:
        return Order.LOST
    if conn.scalar(select(jobs.c.cancel_requested_at).where(jobs.c.id == job)) is not None:
        return Order.CANCEL
    wish = conn.scalar(select(workers.c.wish).where(workers.c.id == beat.worker))
    return Order.CONTINUE if wish is Wish.RUN else Order.DRAIN


def finish(
    db: Database,
    job: str,
    epoch: int,
    artifact: Artifact,
    timings: Mapping[str, float],
    peak_memory: int | None = None,
) -> bool:
    """The video is whole and in the store: make it the job's. True also if this claim already won.

    A claim given up as lost may still deliver while the job waits in the queue at its epoch.
    """

    def act(conn: Connection) -> bool:
        won = move(
            conn,
            FINISH,
            is_claim(job, epoch),
            worker=worker_of(conn, job, epoch),
            artifact=asdict(artifact),
            error=None,
        )
        if not won:
            return already(conn) or False
        if not close_attempt(conn, job, epoch, Outcome.SUCCEEDED, timings=timings, peak_memory=peak_memory):
            reopen_as_success(conn, job, epoch, timings, peak_memory)
        return True

    def already(conn: Connection) -> bool | None:
        stmt = select(jobs.c.id).where(is_claim(job, epoch), jobs.c.state == JobState.SUCCEEDED)
        return True if conn.scalar(stmt) else None

    return _settled(db, act, already)


def fail(
    db: Database,
    job: str,
    epoch: int,
    outcome: Outcome,
    error: JobError,
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
    crash_cap: int = 3,
) -> JobState | None:
    """The attempt ended badly; its outcome's policy decides what the job becomes. None: the claim is void."""

    def act(conn: Connection) -> JobState | None:
        return _abandon(
            conn, job, epoch, outcome, error, crash_cap=crash_cap, timings=timings, peak_memory=peak_memory
        )

    return _settled(db, act, _after(job, epoch, outcome))


def held(db: Database, worker: str) -> list[tuple[str, int]]:
    """The claims of this worker, started or not, hidden jobs included: (job, epoch)."""
    with db.read() as conn:
        claims = conn.execute(select(leases.c.job, leases.c.epoch).where(leases.c.worker == worker))
        return [(row.job, row.epoch) for row in claims]


def lost(db: Database, job: str, epoch: int, cause: str, crash_cap: int = 3) -> JobState | None:
    """A death notice: the worker's process is gone, so the job need not wait for its lease to expire."""

    def act(conn: Connection) -> JobState | None:
        return _abandon(conn, job, epoch, Outcome.LOST, JobError("lost", cause), crash_cap=crash_cap)

    return _settled(db, act, _after(job, epoch, Outcome.LOST))


def give_back(db: Database, job: str, epoch: int, outcome: Outcome, cause: str) -> bool:
    """Drain, preempt or dependency: back into the queue without blame. False: the claim is void.

    A job that was to be cancelled is cancelled instead.
    """
    if outcome not in {Outcome.DRAIN, Outcome.PREEMPT, Outcome.DEPENDENCY}:
        raise ValueError(f"{outcome} is not given back, it fails")

    def act(conn: Connection) -> JobState | None:
        return _abandon(conn, job, epoch, outcome, JobError(outcome, cause))

    return _settled(db, act, _after(job, epoch, outcome)) is not None


def recall(db: Database, job: str, epoch: int) -> bool:
    """Take a prefetched job back. False: it has started, or the claim is void."""

    def act(conn: Connection) -> bool:
        worker = worker_of(conn, job, epoch)
        # A job that was to be cancelled must not go back into the queue: its worker or the reaper ends it.
        if not move(conn, RECALL, is_claim(job, epoch), jobs.c.cancel_requested_at.is_(None), worker=worker):
            return False
        close_attempt(conn, job, epoch, Outcome.RECALL)
        return True

    def already(conn: Connection) -> bool | None:
        return _outcome(conn, job, epoch) is Outcome.RECALL or None

    return _settled(db, act, already)


def cancelled(db: Database, job: str, epoch: int, timings: Mapping[str, float] | None = None) -> bool:
    """The worker obeyed a wish to cancel. False: there was none, or the claim is void."""

    def act(conn: Connection) -> bool:
        worker = worker_of(conn, job, epoch)
        wished = jobs.c.cancel_requested_at.is_not(None)
        if not move(conn, CANCEL_ACTIVE, is_claim(job, epoch), wished, worker=worker):
            return False
        close_attempt(conn, job, epoch, Outcome.CANCELLED, timings=timings)
        return True

    def already(conn: Connection) -> bool | None:
        return _outcome(conn, job, epoch) is Outcome.CANCELLED or None

    return _settled(db, act, already)


def reap(db: Database, crash_cap: int = 3) -> list[tuple[str, int, JobState]]:
    """Take every expired lease back: (job, epoch, what it became).

    Call it only once the database has answered for a full TTL: its own absence expires leases too.
    """
    reaped: list[tuple[str, int, JobState]] = []
    with db.write() as conn:
        stmt = (
            select(leases.c.job, leases.c.epoch, leases.c.worker)
            .where(leases.c.expires_at < farm_now())
            .order_by(leases.c.expires_at)
            .limit(REAP_AT_ONCE)
        )
        for row in conn.execute(stmt).all():
            state = expire(conn, row.job, row.epoch, row.worker, crash_cap)
            if state is not None:
                reaped.append((row.job, row.epoch, state))
    return reaped


def expire(conn: Connection, job: str, epoch: int, worker: str, crash_cap: int) -> JobState | None:
    """Reap one lease if it is still there and still expired; None if not."""
    # The job first, as everyone who ends a claim does, then its lease: held, so that of a renewal and the
    # reaper one waits for the other and sees what it did.
    conn.execute(select(jobs.c.seq).where(is_claim(job, epoch)).with_for_update())
    overdue = (
        select(leases.c.job)
        .where(leases.c.job == job, leases.c.epoch == epoch, leases.c.expires_at < farm_now())
        .with_for_update()
    )
    if conn.scalar(overdue) is None:
        return None
    error = JobError("lost", f"worker {worker} stopped answering")
    return _abandon(conn, job, epoch, Outcome.LOST, error, crash_cap=crash_cap)


def due(db: Database) -> list[str]:
    """Queue the scheduled jobs whose time has come; their ids."""
    with db.write() as conn:
        ready = select(jobs.c.lane).where(jobs.c.state == JobState.SCHEDULED, jobs.c.not_before <= farm_now())
        for lane in sorted(set(conn.scalars(ready))):
            wake_lane(conn, lane)
        return [row["id"] for row in move(conn, DUE, jobs.c.not_before <= farm_now())]


def _abandon(
    conn: Connection,
    job: str,
    epoch: int,
    outcome: Outcome,
    error: JobError,
    *,
    crash_cap: int = 3,
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
) -> JobState | None:
    """End a claim without a video, as its verdict says."""
    held = conn.execute(
        # Locked, so that the verdict is about the row as it will be changed.
        select(jobs).where(is_claim(job, epoch), jobs.c.state.in_(sorted(ACTIVE))).with_for_update()
    ).one_or_none()
    if held is None:
        return None
    said = verdict(
        outcome,
        error,
        failures=held.failures,
        running=held.state is JobState.RUNNING,
        cancel_requested=held.cancel_requested_at is not None,
        crash_cap=crash_cap,
    )
    worker = worker_of(conn, job, epoch)
    values = _values(said.arrow, said.failures, said.error)
    if not move(conn, said.arrow, is_claim(job, epoch), worker=worker, **values):
        return None
    close_attempt(conn, job, epoch, outcome, cause=error.message, timings=timings, peak_memory=peak_memory)
    return said.arrow.target


def _values(arrow: Transition, failures: int, error: JobError | None) -> dict[str, object]:
    values: dict[str, object] = {"failures": failures, "error": asdict(error) if error else None}
    if arrow is REQUEUE:
        values["started_at"] = None  # of a job that waits: it has not started
    return values


def _renderable(conn: Connection, worker_id: str, resident: Sequence[str]) -> ColumnElement[bool]:
    """The job's exact weights are in the worker's memory or on its disk."""
    available = conn.scalar(select(workers.c.available).where(workers.c.id == worker_id))
    if available is None:
        return true()  # it has not said what it has: it finds out by trying
    return jobs.c.model_digest.in_(sorted({*available.values(), *resident}))


def _willing(worker_id: str) -> ColumnElement[bool]:
    """The worker lives and its operator wants it to run."""
    return (
        select(workers.c.id)
        .where(
            workers.c.id == worker_id,
            workers.c.wish == Wish.RUN,
            workers.c.ended_at.is_(None),
        )
        .exists()
    )


def _outcome(conn: Connection, job: str, epoch: int) -> Outcome | None:
    return conn.scalar(select(attempts.c.outcome).where(attempts.c.job == job, attempts.c.epoch == epoch))


def _after(job: str, epoch: int, outcome: Outcome) -> Callable[[Connection], JobState | None]:
    """What the job became if this claim has already been ended so."""

    def read(conn: Connection) -> JobState | None:
        if _outcome(conn, job, epoch) is not outcome:
            return None
        return conn.scalar(select(jobs.c.state).where(is_claim(job, epoch)))

    return read


def _settled(db: Database, act: Callable[[Connection], T], already: Callable[[Connection], T | None]) -> T:
    """`act` in a transaction; where its commit reported failure, `already` re-reads what came of it.

    A commit can succeed and the answer be lost. Acting again or giving up would both be wrong then.
    """
    try:
        with db.write() as conn:
            return act(conn)
    except DatabaseUnavailable:
        with db.read() as conn:
            happened = already(conn)
        if happened is None:
            raise
        return happened
