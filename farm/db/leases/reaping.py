"""Leases that ran out: nobody has said for a whole TTL that the job is still in hand."""

from datetime import datetime

from sqlalchemy import Connection, select

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.leases.ending import abandon
from farm.db.tables import jobs, leases, nodes, workers
from farm.db.transitions import is_claim
from farm.domain.job import JobError
from farm.domain.states import JobState, Outcome

REAP_AT_ONCE = 500


def reap(db: Database, crash_cap: int = 3) -> list[tuple[str, int, JobState]]:
    """Take every expired lease back: (job, epoch, what it became).

    Call it only once the database has answered for a full TTL (farm.scheduling.answering): its own absence
    expires leases too.
    """
    reaped: list[tuple[str, int, JobState]] = []
    stmt = (
        select(leases.c.job, leases.c.epoch, leases.c.worker)
        .where(leases.c.expires_at < farm_now())
        .order_by(leases.c.expires_at)
        .limit(REAP_AT_ONCE)
    )
    with db.read() as conn:
        expired = conn.execute(stmt).all()
    for row in expired:
        # A transaction each: who holds one job's lane and waits for the next job meets, in a ring, the worker
        # that holds that job and waits for the lane; and an agent that renews both leases in another order.
        with db.write() as conn:
            state = expire(conn, row.job, row.epoch, row.worker, crash_cap)
        if state is not None:
            reaped.append((row.job, row.epoch, state))
    return reaped


def expire(conn: Connection, job: str, epoch: int, worker: str, crash_cap: int) -> JobState | None:
    """Reap one lease if it is still there and still expired; None if not."""
    # The job first, as everyone who ends a claim does, then its lease: held, so that of a renewal and the
    # reaper one waits for the other and sees what it did.
    conn.execute(select(jobs.c.seq).where(is_claim(job, epoch)).with_for_update(key_share=True))
    overdue = (
        select(leases.c.renewed_at, leases.c.expires_at)
        .where(leases.c.job == job, leases.c.epoch == epoch, leases.c.expires_at < farm_now())
        .with_for_update(key_share=True)
    )
    lease = conn.execute(overdue).one_or_none()
    if lease is None:
        return None
    error = JobError("lost", f"worker {worker} stopped answering")
    lived = _agent_lived(conn, worker, lease.renewed_at, lease.expires_at)
    return abandon(conn, job, epoch, Outcome.LOST, error, crash_cap=crash_cap, agent_lived=lived)


def _agent_lived(conn: Connection, worker: str, renewed: datetime, expires: datetime) -> bool:
    """The agent of the worker's node was heard long after it last renewed this lease: only the worker is gone.

    Long: half the lease. An agent that died with its node was last heard when it renewed, give or take a round.
    Where this is not known nobody is blamed.
    """
    heard = conn.scalar(
        select(nodes.c.heartbeat_at).join(workers, workers.c.node == nodes.c.node).where(workers.c.id == worker)
    )
    return heard is not None and heard >= renewed + (expires - renewed) / 2
