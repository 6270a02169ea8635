"""SQLite: one file, one machine. How its connections begin, wait and fail."""

import json
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from farm.domain.errors import DatabaseUnavailable, DiskFull, FarmError, FolderUnusable, SchemaOutdated

PASSES_POKES = False


def connect(url: URL, now: Callable[[], datetime] | None, patience: float, pooled: bool, impatient: bool) -> Engine:
    """An engine whose connections know farm_now() and begin as their users say (`begin`).

    There is nobody to be impatient with: a file does not freeze.
    """
    clock = now or _wall_clock

    def farm_now_text(seconds: float = 0.0) -> str:
        moment = datetime.fromtimestamp(clock().timestamp() + seconds, UTC) if seconds else clock().astimezone(UTC)
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")

    pool: dict[str, Any] = {"pool_size": 5, "max_overflow": 20} if pooled else {"poolclass": NullPool}
    engine = create_engine(
        url,
        connect_args={"timeout": patience},
        **pool,
        json_serializer=partial(json.dumps, ensure_ascii=False),  # Chinese stays readable in a shell
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        # We say BEGIN ourselves (below); the driver's own guesses would leave DDL and reads outside.
        connection.isolation_level = None
        connection.create_function("farm_now", -1, farm_now_text)
        # Readers never wait for the writer, and an accepted job survives a power cut.
        _use_wal(connection, patience)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # A writer takes the write lock first: a transaction that reads and then writes could otherwise
        # find its snapshot stale half way, which no busy timeout heals.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def begin(writes: bool) -> dict[str, Any]:
    return {"writes": writes}


def lock_schema(connection: Connection) -> None:
    """BEGIN IMMEDIATE has done it."""


def forget_foreign_events(connection: Connection) -> None:
    """Its numbers are in its own file."""


def poke(connection: Connection) -> None:
    """Everybody is on this machine, where a datagram tells them."""


def hear_pokes(engine: Engine, seconds: float) -> None:
    return None


def translate(error: DBAPIError, url: URL) -> FarmError | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None:
        if error.connection_invalidated:
            return DatabaseUnavailable(f"lost the connection to {url.database}", "it is tried again by itself")
        return None
    primary = code & 0xFF  # the rest of the bits only say which call it was
    where = url.database
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


def _use_wal(connection: sqlite3.Connection, patience: float) -> None:
    """The one statement that does not wait by itself: two processes may meet on a new file."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _wall_clock() -> datetime:
    return datetime.now(UTC)
