"""Postgres, for several machines: how its connections begin, wait, listen and fail."""

import json
from collections.abc import Callable, Generator
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from farm.db.dialect import postgres_silence
from farm.domain.errors import (
    DatabaseRefused,
    DatabaseUnavailable,
    DiskFull,
    FarmError,
    SchemaOutdated,
    TransactionConflict,
)

PASSES_POKES = True
_CHANNEL = "farm_poke"
_SCHEMA_LOCK = 7_860_000_001  # the number is arbitrary; every farm must use the same
_CONNECT_PATIENCE = 5  # seconds
_IDLE_PATIENCE = 60  # seconds: our transactions wait for nobody; one that does has lost its process
_AGAIN = "it is tried again by itself"


def connect(url: URL, now: Callable[[], datetime] | None, patience: float, pooled: bool, impatient: bool) -> Engine:
    """What the URL says about TLS, time-outs and options goes to libpq as it is (`?sslmode=verify-full&...`)."""
    query = dict(url.query)
    options = (
        f"-c statement_timeout={round(2000 * patience)} -c lock_timeout={round(1000 * patience)}"
        f" -c idle_in_transaction_session_timeout={1000 * _IDLE_PATIENCE}"
    )
    arguments: dict[str, Any] = {
        "connect_timeout": postgres_silence.CONNECT if impatient else _CONNECT_PATIENCE,
        "application_name": "turbofarm",
        # A server whose machine is gone says nothing: the network has to notice.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        "options": " ".join([options, *_words(query.pop("options", ()))]),
    }
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        # A look before each use: after a restart of the server every old connection is dead.
        pool = {"pool_size": 5, "max_overflow": 20, "pool_timeout": patience, "pool_pre_ping": True}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg", query=query),
        connect_args={name: value for name, value in arguments.items() if name not in query},
        json_serializer=partial(json.dumps, ensure_ascii=False),
        **pool,
    )

    if impatient:
        # The server's own limit on a statement comes first, where the server still keeps it.
        postgres_silence.watch(engine, write=2 * patience + 1)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        # Accepted means durable, whatever this server's default is; a stronger one stays.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()

    if now is not None:
        clock = now

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
            moment = clock().isoformat()
            connection.exec_driver_sql("SELECT set_config('farm.now', %s, true)", (moment,))

    return engine


def begin(writes: bool) -> dict[str, Any]:
    # A guarded UPDATE that waited for another looks again at the row as that one left it: read committed.
    if writes:
        return {"isolation_level": "READ COMMITTED", "postgresql_readonly": False}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def lock_schema(connection: Connection) -> None:
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))


def forget_foreign_events(connection: Connection) -> None:
    # A dump carries the events but not the server's count of transactions, with which their numbers begin.
    connection.execute(
        text("DELETE FROM events WHERE id >= ((pg_current_xact_id()::text::bigint + 1) << 20)"),
    )


def poke(connection: Connection) -> None:
    connection.execute(text(f"NOTIFY {_CHANNEL}"))


def hear_pokes(engine: Engine, seconds: float) -> Generator[bool]:
    """At once, and then after each poke or `seconds`. Raises DatabaseUnavailable when the connection is lost."""
    try:
        borrowed = engine.connect()
        listening: Any = borrowed.connection.driver_connection
        borrowed.detach()  # it never goes back to the pool
    except DBAPIError as error:
        raise translate(error, engine.url) or error from error
    try:
        listening.autocommit = True
        listening.execute(f"LISTEN {_CHANNEL}")
        yield True  # whatever came before we listened
        while True:
            yield any(True for _ in listening.notifies(timeout=seconds, stop_after=1))
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"lost the connection to {_where(engine.url)}", _AGAIN) from error
    finally:
        listening.close()


def translate(error: DBAPIError, url: URL) -> FarmError | None:
    orig = error.orig
    state: str = getattr(orig, "sqlstate", None) or ""
    said = str(orig).strip()
    if "connection option" in said:
        return DatabaseRefused(f"the address of {_where(url)}: {said}", "correct FARM_DATABASE_URL")
    if not state and isinstance(error, OperationalError | InterfaceError) and not _was_connected(said):
        return _not_connected(said, url)
    where = _where(url)
    if state in {"40001", "40P01"}:
        return TransactionConflict("another transaction was in the way", "try again, nothing was changed")
    if state in {"55P03", "57014"}:
        return DatabaseUnavailable(f"{where} kept us waiting for too long", "try again; look for a long lock")
    if state.startswith("53"):
        if state == "53100":
            return DiskFull(f"the disk of {where} is full", "free some space there; nothing was half-written")
        return DatabaseUnavailable(f"{where} has no room: {_first(said)}", "raise its limits, or close other users")
    if state in {"42501", "25006"}:
        return DatabaseRefused(
            f"{where} refuses: {_first(said)}",
            "grant this user all rights on the farm's tables, or name the primary server",
        )
    if state in {"42P01", "42703", "42704", "42883", "3F000"}:
        return SchemaOutdated(f"{where} is not as expected: {_first(said)}", "run: farm migrate")
    if error.connection_invalidated or state[:2] in {"08", "57", "58"} or state == "25P03":
        return DatabaseUnavailable(f"lost the connection to {where}", _AGAIN)
    if not state and isinstance(error, OperationalError | InterfaceError):
        return DatabaseUnavailable(f"lost the connection to {where}", _AGAIN)
    return None


def _not_connected(said: str, url: URL) -> FarmError:
    """libpq gives no code for a connection that never was: its words are all there is. They name no password."""
    where, words = _where(url), _first(said.rpartition("failed: ")[2] or said)
    if "password authentication failed" in said or "no password supplied" in said:
        return DatabaseRefused(
            f"{where} refuses the password of user {url.username or 'nobody'!r}",
            "correct it in FARM_DATABASE_URL or farm.toml; special characters in it are written %40, %2F, ...",
        )
    if "does not exist" in said and "database" in words and "role" not in words:
        return DatabaseRefused(
            f"{where}: there is no database {url.database!r} on that server",
            f"create it: createdb --owner {url.username or 'USER'} {url.database}; then run: farm migrate",
        )
    if "does not exist" in said or "no pg_hba.conf entry" in said or "permission denied" in said:
        return DatabaseRefused(
            f"{where} refuses user {url.username!r}: {words}",
            "create that user and let it connect (pg_hba.conf, GRANT CONNECT), or correct FARM_DATABASE_URL",
        )
    if "certificate" in said or "SSL" in said:
        return DatabaseRefused(f"{where}: {words}", "correct sslmode and sslrootcert in FARM_DATABASE_URL")
    if "Name or service not known" in said or "resolve" in said:
        return DatabaseUnavailable(f"{where}: no machine has that name", "correct it, or wait for the name server")
    if postgres_silence.SILENT in said:
        return DatabaseUnavailable(
            f"{where} does not answer",
            f"nothing that was accepted is lost, and {_AGAIN}; if it stays so, look whether that server is frozen"
            " or its disk hangs",
        )
    return DatabaseUnavailable(f"cannot reach {where}: {words}", f"start that server; {_AGAIN}")


def _was_connected(said: str) -> bool:
    """Whether these words are about a connection that has been open."""
    return not any(words in said for words in ("connection failed", "connection to server", "resolve", "timeout"))


def _where(url: URL) -> str:
    host = url.host or url.query.get("host") or "localhost"
    return f"the database {url.database} on {host}{f':{url.port}' if url.port else ''}"


def _first(said: str) -> str:
    return said.removeprefix("FATAL:").strip().splitlines()[0].strip() if said else "no reason given"


def _words(option: str | tuple[str, ...]) -> tuple[str, ...]:
    return (option,) if isinstance(option, str) else option
