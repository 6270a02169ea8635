"""Reading the outbox: what changed since a cursor, and forgetting what is old."""

from sqlalchemy import Connection, delete, func, select, update

from farm.db import rows
from farm.db.dialect import farm_now, settled_events
from farm.db.engine import Database
from farm.db.tables import events
from farm.domain.job import Event

# What pruning leaves behind: the newest row that was forgotten, emptied. Numbers have gaps, so that only this
# row can tell a reader who has missed something from one who has not.
_FORGOTTEN = "forgotten"


def read(db: Database, after: int, limit: int = 500) -> tuple[list[Event], bool]:
    """Events with id > `after`, oldest first, and whether the reader must start afresh (`reset`).

    Reset: rows after the cursor have been pruned, or the cursor is of another database. Ask again from
    latest().
    """
    with db.read() as conn:
        # Two questions: asked as one, they read the whole table instead of its two ends.
        first = select(func.min(events.c.id)).scalar_subquery()
        oldest = conn.execute(select(events.c.id, events.c.kind).where(events.c.id == first)).one_or_none()
        newest = conn.scalar(select(func.max(events.c.id)))
        # The newest row is never pruned, so an empty table means that nothing has ever happened.
        if after > (newest or 0) or (oldest is not None and oldest.kind == _FORGOTTEN and after < oldest.id):
            return [], True
        stmt = (
            select(events)
            .where(events.c.id > after, events.c.id < settled_events())
            .order_by(events.c.id)
            .limit(limit)
        )
        return [rows.event(row) for row in conn.execute(stmt).mappings()], False


def latest(db: Database) -> int:
    """The cursor of a reader who wants only what comes from now on; 0 if nothing has happened yet."""
    with db.read() as conn:
        # Not simply the newest: an event that is still to be committed may have a lower number.
        return conn.scalar(select(func.max(events.c.id)).where(events.c.id < settled_events())) or 0


def prune(db: Database, days: float = 7) -> int:
    """Forget events older than `days`; says how many."""
    with db.write() as conn:
        newest = select(func.max(events.c.id)).scalar_subquery()
        last = conn.scalar(
            select(func.max(events.c.id)).where(
                events.c.at < farm_now(-days * 86400), events.c.id < newest, events.c.kind != _FORGOTTEN
            )
        )
        return 0 if last is None else _forget_up_to(conn, last)


def _forget_up_to(conn: Connection, last: int) -> int:
    gone = conn.execute(delete(events).where(events.c.id < last, events.c.kind != _FORGOTTEN)).rowcount
    conn.execute(delete(events).where(events.c.id < last))
    conn.execute(update(events).where(events.c.id == last).values(kind=_FORGOTTEN, subject="", data={}))
    return gone + 1
