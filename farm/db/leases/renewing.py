"""Leases are prolonged, and the answer brings what people wish of each worker now."""

from collections.abc import Sequence

from sqlalchemy import Connection, case, or_, select, update

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import jobs, leases, nodes, workers
from farm.domain.states import Order, Wish
from farm.domain.worker import Beat


def renew(db: Database, beats: Sequence[Beat], ttl: float = 30.0) -> dict[tuple[str, int], Order]:
    """Prolong the leases of these beats and keep their progress; what each worker is to do now.

    LOST: the claim is void, stop and discard. DRAIN: give it back at the next step; a wish that lets the job
    in hand finish says CONTINUE. One transaction; a beat without a job is skipped.
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
    shown: dict[str, object] = {}
    if at is not None:
        moved = or_(leases.c.stage.is_distinct_from(at.stage), leases.c.k != at.k)
        shown = {
            "stage": at.stage, "k": at.k, "n": at.n, "preview_step": at.preview_step,
            "progress_at": case((moved, farm_now()), else_=leases.c.progress_at),
        }  # fmt: skip
    renewed = conn.execute(
        update(leases)
        # An expired lease may be renewed as long as the reaper has not taken it: nobody else has the job.
        .where(leases.c.job == job, leases.c.epoch == beat.epoch, leases.c.worker == beat.worker)
        .values(expires_at=farm_now(ttl), renewed_at=farm_now(), **shown)
    )
    if renewed.rowcount == 0:
        return Order.LOST
    if conn.scalar(select(jobs.c.cancel_requested_at).where(jobs.c.id == job)) is not None:
        return Order.CANCEL
    return Order.DRAIN if _must_give_back(conn, beat.worker) else Order.CONTINUE


def _must_give_back(conn: Connection, worker: str) -> bool:
    """Somebody wishes of it, or of its node, to stop now. Unless told now, the job in hand is finished."""
    of_worker = (workers.c.wish != Wish.RUN) & workers.c.wish_now
    of_node = (nodes.c.wish != Wish.RUN) & nodes.c.wish_now
    wished = (
        select(workers.c.id)
        .outerjoin(nodes, nodes.c.node == workers.c.node)
        .where(workers.c.id == worker, or_(of_worker, of_node))
    )
    return conn.scalar(wished) is not None
