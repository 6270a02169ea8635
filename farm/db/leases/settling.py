"""What to do where a commit reported failure: read again before acting."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from farm.db.engine import Database
from farm.domain.errors import DatabaseUnavailable

T = TypeVar("T")


def settled(db: Database, act: Callable[[Connection], T], already: Callable[[Connection], T | None]) -> T:
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
