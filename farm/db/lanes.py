"""Lanes: what waits and runs in each, how much each has had, and whether it is open."""

from collections.abc import Collection

from sqlalchemy import Select, func, select, update

from farm.db.engine import Database
from farm.db.tables import jobs
from farm.db.tables import lanes as lane_rows
from farm.domain.states import ACTIVE, JobState
from farm.scheduling.lanes import LaneView


def lanes(db: Database, digests: Collection[str] | None = None) -> list[LaneView]:
    """Every lane there has ever been a job for. `digests`: only jobs of these weights count as waiting."""

    def count(states: list[JobState]) -> Select[int]:
        return select(func.count()).where(jobs.c.state.in_(states), jobs.c.lane == lane_rows.c.id)

    waiting = count([JobState.QUEUED])
    if digests is not None:
        waiting = waiting.where(jobs.c.model_digest.in_(sorted(digests)))
    stmt = select(
        lane_rows,
        waiting.scalar_subquery().label("waiting"),
        count(sorted(ACTIVE)).scalar_subquery().label("running"),
    ).order_by(lane_rows.c.id)
    with db.read() as conn:
        return [
            LaneView(
                row.id, row.cls, row.model, row.virtual_time, row.weight, row.waiting, row.running,
                row.closed_reason,
            )
            for row in conn.execute(stmt)
        ]  # fmt: skip


def close_lane(db: Database, lane: str, reason: str) -> bool:
    """Nothing more is claimed from it; what runs goes on. False: there is no such lane."""
    return _set_reason(db, lane, reason)


def open_lane(db: Database, lane: str) -> bool:
    """False: there is no such lane."""
    return _set_reason(db, lane, None)


def _set_reason(db: Database, lane: str, reason: str | None) -> bool:
    with db.write() as conn:
        return bool(
            conn.execute(update(lane_rows).where(lane_rows.c.id == lane).values(closed_reason=reason)).rowcount
        )
