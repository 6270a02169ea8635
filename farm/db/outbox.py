"""Appending to the outbox, inside the transaction of the change that a row tells of."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert

from farm.db import rows
from farm.db.dialect import event_number, farm_now
from farm.db.tables import events


def append(conn: Connection, news: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Each is (kind, subject, changed fields)."""
    if news:
        conn.execute(
            insert(events).values(id=event_number(), at=farm_now()),
            [
                {"kind": kind, "subject": subject, "data": {k: rows.plain(v) for k, v in data.items()}}
                for kind, subject, data in news
            ],
        )
