"""Everything in which one database differs from another: types, clock, connections, errors. SQLite today.

No other file may name a database product; Postgres joins by adding its branch to each section.
"""

import json
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Engine, Integer, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from farm.domain.errors import DatabaseUnavailable, DiskFull, FarmError, FolderUnusable, SchemaOutdated

# A row number that grows and is never given out twice, not even after its row was deleted.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")
NEVER_REUSED: dict[str, Any] = {"sqlite_autoincrement": True}


def only_where(condition: ColumnElement[bool]) -> dict[str, Any]:
    """Arguments that make an Index partial."""
    return {"sqlite_where": condition, "postgresql_where": condition}


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite keeps fixed-width text, so that comparing text compares time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class farm_now(FunctionElement[datetime]):
    """The one source of time of every statement; `farm_now(30.0)` is 30 seconds later."""

    name = "farm_now"
    type = UtcTime()
    inherit_cache = True


@compiles(farm_now, "sqlite")
def _farm_now_sqlite(element: farm_now, compiler: Any, **kw: Any) -> str:
    return f"farm_now({compiler.process(element.clauses, **kw)})"


def connect(url: str, now: Callable[[], datetime] | None, busy_timeout: float) -> Engine:
    """An engine whose connections know farm_now() and begin as their users say (`writes`).

    Raises FolderUnusable for a URL that names no database this farm can keep.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise FolderUnusable(
            f"{url!r} is not the address of a database file",
            "use sqlite:///path/to/farm.db",
            field="database_url",
        )
    return _connect_sqlite(parsed, now or _wall_clock, busy_timeout)


def _wall_clock() -> datetime:
    return datetime.now(UTC)


def _connect_sqlite(url: URL, now: Callable[[], datetime], busy_timeout: float) -> Engine:
    def farm_now_text(seconds: float = 0.0) -> str:
        moment = datetime.fromtimestamp(now().timestamp() + seconds, UTC) if seconds else now().astimezone(UTC)
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")

    engine = create_engine(
        url,
        connect_args={"timeout": busy_timeout},
        pool_size=5,
        max_overflow=20,
        json_serializer=partial(json.dumps, ensure_ascii=False),  # Chinese stays readable in a shell
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        # We say BEGIN ourselves (below); the driver's own guesses would leave DDL and reads outside.
        connection.isolation_level = None
        connection.create_function("farm_now", -1, farm_now_text)
        # Readers never wait for the writer, and an accepted job survives a power cut.
        _use_wal(connection, busy_timeout)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # A writer takes the write lock first: a transaction that reads and then writes could otherwise
        # find its snapshot stale half way, which no busy timeout heals.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection, busy_timeout: float) -> None:
    """The one statement that does not wait by itself: two processes may meet on a new file."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def translate(error: DBAPIError, url: str) -> FarmError | None:
    """What a driver's error means to a person; None where it is a mistake in this room."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None:
        if error.connection_invalidated:
            return DatabaseUnavailable(f"lost the connection to {url}", "it is tried again by itself")
        return None
    primary = code & 0xFF  # the rest of the bits only say which call it was
    where = make_url(url).database
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull(f"the disk of {where} is full", "free some space; nothing was half-written")
    if primary in {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    }:
        return FolderUnusable(
            f"cannot write the database {where}: {error.orig}",
            "check that its folder exists and that you may write there, or choose another with FARM_HOME",
        )
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return FolderUnusable(
            f"the database {where} is damaged: {error.orig}",
            "stop the farm, move the file away and restore a backup; a new farm starts with an empty folder",
        )
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return DatabaseUnavailable(
            f"another process holds the database {where} locked",
            "try again; if it stays, look for a backup or a shell that has the file open",
        )
    if primary == sqlite3.SQLITE_IOERR:
        return DatabaseUnavailable(
            f"the disk under {where} reports an error: {error.orig}", "check the disk, then try again"
        )
    if primary == sqlite3.SQLITE_ERROR and "no such" in str(error.orig):
        return SchemaOutdated(f"the database {where} is not as expected: {error.orig}", "run: farm migrate")
    return None
