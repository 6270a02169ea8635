"""Everything in which one database differs from another. No file outside this folder names a database product.

`types` and `documents` have what tables and statements are written with; `sqlite` and `postgres` have
connections and errors.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from farm.db.dialect import postgres, sqlite
from farm.db.dialect.documents import all_in, has_pair, has_value
from farm.db.dialect.types import (
    HALF_EMPTY,
    NEVER_REUSED,
    JobId,
    RowNumber,
    UtcTime,
    event_number,
    farm_now,
    only_where,
    settled_events,
)
from farm.domain.address import shown
from farm.domain.errors import FarmError, FolderUnusable

__all__ = [
    "HALF_EMPTY", "NEVER_REUSED", "JobId", "Options", "RowNumber", "UtcTime", "all_in", "begin", "connect",
    "event_number", "farm_now", "forget_foreign_events", "has_pair", "has_value", "hear_pokes", "lock_schema",
    "only_where", "passes_pokes", "poke", "settled_events", "translate",
]  # fmt: skip

_PRODUCTS: dict[str, ModuleType] = {"sqlite": sqlite, "postgresql": postgres, "postgres": postgres}


@dataclass(frozen=True)
class Options:
    """`now` replaces the database's clock in tests. `patience`: seconds to wait for another writer.

    `pooled` False: no connection is kept between transactions, for the many who ask seldom.
    `impatient`: a database that says nothing is away within seconds, for those behind whom a person waits.
    """

    now: Callable[[], datetime] | None = None
    patience: float = 15.0
    pooled: bool = True
    impatient: bool = False


def connect(url: str, options: Options) -> Engine:
    """An engine that has not connected yet. Raises FolderUnusable for a URL that names no database."""
    parsed = _parsed(url)
    if parsed is None or not parsed.database:
        raise FolderUnusable(
            f"{shown(url)!r} is not the address of a database",
            "use sqlite:///path/to/farm.db, or postgresql://user:password@host/database",
            field="database_url",
        )
    return _PRODUCTS[parsed.get_backend_name()].connect(
        parsed, options.now, options.patience, options.pooled, options.impatient
    )


def begin(engine: Engine, writes: bool) -> dict[str, Any]:
    """The execution options under which a transaction begins: one that only reads sees one moment."""
    return _of(engine).begin(writes)


def translate(error: DBAPIError, url: str) -> FarmError | None:
    """What a driver's error means to a person; None where it is a mistake in this room."""
    parsed = _parsed(url)
    assert parsed is not None
    return _PRODUCTS[parsed.get_backend_name()].translate(error, parsed)


def lock_schema(connection: Connection) -> None:
    """Until the end of the transaction nobody else migrates, and no time limit cuts a migration off."""
    _of(connection.engine).lock_schema(connection)


def forget_foreign_events(connection: Connection) -> None:
    """After a restore from another server's dump the outbox may hold numbers that this server would reuse."""
    _of(connection.engine).forget_foreign_events(connection)


def passes_pokes(engine: Engine) -> bool:
    """Whether this database tells others of a poke."""
    return _of(engine).PASSES_POKES


def poke(connection: Connection) -> None:
    """Wakes everyone in `hear_pokes` once the transaction is committed."""
    _of(connection.engine).poke(connection)


def hear_pokes(engine: Engine, seconds: float) -> Generator[bool] | None:
    """On a connection of its own: whether a poke came, at least every `seconds`. None: there are none to hear.

    Raises DatabaseUnavailable, on the way too.
    """
    return _of(engine).hear_pokes(engine, seconds)


def _parsed(url: str) -> URL | None:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return None
    return parsed if parsed.get_backend_name() in _PRODUCTS else None


def _of(engine: Engine) -> ModuleType:
    return _PRODUCTS[engine.dialect.name]
