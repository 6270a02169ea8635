"""Reading the outbox: what changed since a cursor, and forgetting what is old."""

from sqlalchemy import delete, func, select

from farm.db import rows
from farm.db.dialect import farm_now
from farm.db.engine import Database
from farm.db.tables import events
from farm.domain.job import Event


def read(db: Database, after: int, limit: int = 500) -> tuple[list[Event], bool]:
    """Events with id > `after`, oldest first, and whether the reader must start afresh (`reset`).

    Reset: rows after the cursor have been pruned, or the cursor is of another database. Ask again from
    latest().
    """
    with db.read() as conn:
        # Two questions: asked as one, they read the whole table instead of its two ends.
        oldest = conn.scalar(select(func.min(events.c.id)))
        newest = conn.scalar(select(func.max(events.c.id)))
        # The newest row is never pruned, so an empty table means that nothing has ever happened.
        if after > (newest or 0) or (oldest is not None and after < oldest - 1):
            return [], True
        stmt = select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
        return [rows.event(row) for row in conn.execute(stmt).mappings()], False


def latest(db: Database) -> int:
    """The cursor of a reader who wants only what comes from now on; 0 if nothing has happened yet."""
    with db.read() as conn:
        return conn.scalar(select(func.max(events.c.id))) or 0


def prune(db: Database, days: float = 7) -> int:
    """Forget events older than `days`; says how many."""
    with db.write() as conn:
        newest = select(func.max(events.c.id)).scalar_subquery()
        stmt = delete(events).where(events.c.at < farm_now(-days * 86400), events.c.id < newest)
        return conn.execute(stmt).rowcount
