"""How a claim ends: with a video, with a failure, given back, recalled, cancelled, or lost."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

from sqlalchemy import Connection, select

from farm.db.engine import Database
from farm.db.leases.abandoning import abandon
from farm.db.leases.settling import settled
from farm.db.tables import attempts, jobs, leases
from farm.db.transitions import close_attempt, is_claim, move, reopen_as_success, worker_of
from farm.domain.job import Artifact, JobError
from farm.domain.states import CANCEL_ACTIVE, FINISH, RECALL, JobState, Outcome
from farm.scheduling.quarantine import QuarantinePolicy
from farm.scheduling.verdict import SMALLEST_PLAN


def finish(
    db: Database,
    job: str,
    epoch: int,
    artifact: Artifact,
    timings: Mapping[str, float],
    peak_memory: int | None = None,
) -> bool:
    """The video is whole and in the store: make it the job's. True also if this claim already won.

    A claim given up as lost may still deliver while the job waits in the queue at its epoch; not once people
    have asked for the job anew.
    """

    def act(conn: Connection) -> bool:
        won = move(
            conn,
            FINISH,
            is_claim(job, epoch),
            jobs.c.pardoned < epoch,  # a job may be retried long after the collector took what its last claim left
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

    return settled(db, act, already)


def fail(
    db: Database,
    job: str,
    epoch: int,
    outcome: Outcome,
    error: JobError,
    timings: Mapping[str, float] | None = None,
    peak_memory: int | None = None,
    crash_cap: int = 3,
    smallest_plan: int = SMALLEST_PLAN,
    quarantine: QuarantinePolicy = QuarantinePolicy(),  # noqa: B008 - it is frozen
) -> JobState | None:
    """The attempt ended badly; its outcome's policy decides what the job becomes. None: the claim is void.

    `smallest_plan`: the number of the model's last memory plan; out of memory with it, no smaller one is tried.
    """

    def act(conn: Connection) -> JobState | None:
        return abandon(
            conn, job, epoch, outcome, error, crash_cap=crash_cap, timings=timings, peak_memory=peak_memory,
            smallest_plan=smallest_plan, quarantine=quarantine,
        )  # fmt: skip

    return settled(db, act, _after(job, epoch, outcome))


def held(db: Database, worker: str) -> list[tuple[str, int]]:
    """The claims of this worker, started or not, hidden jobs included: (job, epoch)."""
    with db.read() as conn:
        claims = conn.execute(select(leases.c.job, leases.c.epoch).where(leases.c.worker == worker))
        return [(row.job, row.epoch) for row in claims]


def lost(
    db: Database, job: str, epoch: int, cause: str, crash_cap: int = 3, agent_lived: bool = True
) -> JobState | None:
    """A death notice: the worker's process is gone, so the job need not wait for its lease to expire.

    Also of a hung one, once its process was killed. agent_lived False: its whole node went, nobody is blamed.
    """

    def act(conn: Connection) -> JobState | None:
        error = JobError("lost", cause)
        return abandon(conn, job, epoch, Outcome.LOST, error, crash_cap=crash_cap, agent_lived=agent_lived)

    return settled(db, act, _after(job, epoch, Outcome.LOST))


def give_back(db: Database, job: str, epoch: int, outcome: Outcome, cause: str) -> bool:
    """Drain, preempt or dependency: back into the queue without blame. False: the claim is void.

    A job that was to be cancelled is cancelled instead.
    """
    if outcome not in {Outcome.DRAIN, Outcome.PREEMPT, Outcome.DEPENDENCY}:
        raise ValueError(f"{outcome} is not given back, it fails")

    def act(conn: Connection) -> JobState | None:
        return abandon(conn, job, epoch, outcome, JobError(outcome, cause))

    return settled(db, act, _after(job, epoch, outcome)) is not None


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

    return settled(db, act, already)


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

    return settled(db, act, already)


def _outcome(conn: Connection, job: str, epoch: int) -> Outcome | None:
    return conn.scalar(select(attempts.c.outcome).where(attempts.c.job == job, attempts.c.epoch == epoch))


def _after(job: str, epoch: int, outcome: Outcome) -> Callable[[Connection], JobState | None]:
    """What the job became if this claim has already been ended so."""

    def read(conn: Connection) -> JobState | None:
        if _outcome(conn, job, epoch) is not outcome:
            return None
        return conn.scalar(select(jobs.c.state).where(is_claim(job, epoch)))

    return read
