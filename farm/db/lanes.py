"""Lanes: what waits and runs in each, how much each has had, and whether it is open."""

from datetime import datetime

from sqlalchemy import Select, func, select, update

from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.fitting import takes
from farm.db.tables import jobs
from farm.db.tables import lanes as lane_rows
from farm.domain.states import ACTIVE, JobState
from farm.scheduling.lanes import LaneView


def lanes(db: Database, worker: str | None = None) -> list[LaneView]:
    """Every lane there has ever been a job for. `worker`: only jobs that it may be given now count as waiting.

    So a lane whose jobs want other weights, another pool or another GPU does not keep it from the next one.
    """

    def count(states: list[JobState]) -> Select[int]:
        return select(func.count()).where(jobs.c.state.in_(states), jobs.c.lane == lane_rows.c.id)

    with db.read() as conn:
        waiting = count([JobState.QUEUED])
        if worker is not None:
            waiting = waiting.where(takes(conn, worker))
        stmt = select(
            lane_rows,
            waiting.scalar_subquery().label("waiting"),
            count(sorted(ACTIVE)).scalar_subquery().label("running"),
            (lane_rows.c.open_until <= farm_now()).label("over"),
        ).order_by(lane_rows.c.id)
        return [
            LaneView(
                row.id, row.cls, row.model, row.virtual_time, row.weight, row.waiting, row.running,
                row.closed_reason or ("its window is over" if row.over else None), row.open_until,
            )
            for row in conn.execute(stmt)
        ]  # fmt: skip


def close_lane(db: Database, lane: str, reason: str) -> bool:
    """Nothing more is claimed from it; what runs goes on. False: there is no such lane."""
    return _set(db, lane, reason, None)


def open_lane(db: Database, lane: str, until: datetime | None = None) -> bool:
    """`until`: the end of its window, from when on nothing more is claimed. False: there is no such lane."""
    return _set(db, lane, None, until)


def _set(db: Database, lane: str, reason: str | None, until: datetime | None) -> bool:
    values = {"closed_reason": reason, "open_until": until}
    with db.write() as conn:
        return bool(conn.execute(update(lane_rows).where(lane_rows.c.id == lane).values(**values)).rowcount)
