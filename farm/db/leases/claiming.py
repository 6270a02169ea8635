"""A worker takes a job, and begins it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, case, func, insert, or_, select, update

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.fitting import takes, willing
from farm.db.leases.settling import settled
from farm.db.tables import attempts, jobs, lanes, leases, workers
from farm.db.transitions import is_claim, move, worker_of
from farm.domain.job import Assignment, JobSpec
from farm.domain.states import CLAIM, START, JobState

LOOK_AHEAD = 16  # how far a job may be overtaken by one whose weights the worker already holds
MOST_LEASES = 3  # of one worker: one in its tail (encode, upload), one running, one prefetched


def claim(
    db: Database,
    worker_id: str,
    lane: str,
    ttl: float = 30.0,
    models: Sequence[str] = (),
    capacity: int = MOST_LEASES,
) -> Assignment | None:
    """The lane's next job for this worker, leased for `ttl` seconds; None if there is none for it.

    `models`: digests resident in the worker; among equal priorities such a job goes first, within the
    lane's first 16. A worker that is gone, or wished to stop, or on a GPU in quarantine, or that holds
    `capacity` leases, gets nothing; no worker gets a job that wants what it does not have.
    """
    with db.write() as conn:
        # Two who claim for one worker take turns here, so that each counts what the other took.
        me = select(workers.c.gpu).where(workers.c.id == worker_id).with_for_update(key_share=True)
        gpu = conn.scalar(me)
        if gpu is None:
            return None
        head = (
            select(jobs.c.id, jobs.c.model_digest)
            .where(jobs.c.state == JobState.QUEUED, jobs.c.lane == lane, takes(conn, worker_id, models))
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
            .with_for_update(skip_locked=True, key_share=True, of=jobs)
            .cte("first")
        )
        holds = select(func.count()).select_from(leases).where(leases.c.worker == worker_id).scalar_subquery()
        is_open = and_(
            lanes.c.closed_reason.is_(None), or_(lanes.c.open_until.is_(None), lanes.c.open_until > farm_now())
        )
        won = move(
            conn,
            CLAIM,
            jobs.c.id == select(first.c.id).scalar_subquery(),
            select(lanes.c.id).where(lanes.c.id == lane, is_open).exists(),
            willing(worker_id),
            holds < capacity,
            worker=worker_id,
            epoch=jobs.c.epoch + 1,  # the fence: every earlier claim is void from here on
        )
        if not won:
            return None
        row = won[0]
        key: dict[str, Any] = {"job": row["id"], "epoch": row["epoch"], "worker": worker_id}
        conn.execute(
            insert(leases).values(**key, expires_at=farm_now(ttl), renewed_at=farm_now(), progress_at=farm_now())
        )
        conn.execute(insert(attempts).values(**key, gpu=gpu, timings={}, claimed_at=farm_now()))
        spec = JobSpec.from_json(row["spec"])
        return Assignment(**key, spec=spec, memory_plan=row["memory_plan"], expanded_prompt=row["expanded_prompt"])


def start(db: Database, job: str, epoch: int) -> bool:
    """The worker begins to render. False: the claim is void, do nothing."""

    def act(conn: Connection) -> bool:
        if not move(conn, START, is_claim(job, epoch), worker=worker_of(conn, job, epoch), started_at=farm_now()):
            return False
        now = {"started_at": farm_now()}
        conn.execute(update(attempts).where(attempts.c.job == job, attempts.c.epoch == epoch).values(**now))
        # A prefetched job has waited without hanging.
        moved = {"progress_at": farm_now()}
        conn.execute(update(leases).where(leases.c.job == job, leases.c.epoch == epoch).values(**moved))
        return True

    def already(conn: Connection) -> bool | None:
        stmt = select(jobs.c.id).where(is_claim(job, epoch), jobs.c.state == JobState.RUNNING)
        return True if conn.scalar(stmt) else None

    return settled(db, act, already)
