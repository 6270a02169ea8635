"""Types, clock and numbers as tables and statements spell them; each database compiles them its own way."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

# A row number that grows and is never given out twice, not even after its row was deleted.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")
NEVER_REUSED: dict[str, Any] = {"sqlite_autoincrement": True}

# A prefix of an id is looked up as a range, which is right only where letters sort by their codes.
JobId = String(16).with_variant(String(16, collation="C"), "postgresql")

# Rows that are rewritten every few seconds find room on their own page, and no index is touched.
HALF_EMPTY: dict[str, Any] = {"postgresql_with": {"fillfactor": 50}}


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
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class farm_now(FunctionElement[datetime]):
    """The one source of time of every statement; `farm_now(30.0)` is 30 seconds later."""

    name = "farm_now"
    type = UtcTime()
    inherit_cache = True


@compiles(farm_now, "sqlite")
def _farm_now_sqlite(element: farm_now, compiler: Any, **kw: Any) -> str:
    return f"farm_now({compiler.process(element.clauses, **kw)})"


@compiles(farm_now, "postgresql")
def _farm_now_postgres(element: farm_now, compiler: Any, **kw: Any) -> str:
    # The clock of the statement, not of the transaction, which may have waited for a lock; and not
    # clock_timestamp(), which no index can serve. Only tests set farm.now (`postgres.connect`).
    now = "coalesce(nullif(current_setting('farm.now', true), '')::timestamptz, statement_timestamp())"
    seconds = compiler.process(element.clauses, **kw)
    return f"({now} + make_interval(secs => CAST({seconds} AS double precision)))" if seconds else now


class event_number(FunctionElement[int]):
    """The number of a new row of the outbox. See `settled_events` for why it is not simply the next one."""

    type = BigInteger()
    inherit_cache = True


class settled_events(FunctionElement[int]):
    """Events below this number are all there: no transaction still under way can add one.

    A reader keeps one number and asks for what is above it, so numbers must come to light in their order.
    A sequence cannot promise that: 7 may be committed before 6, and a reader that has seen 7 would miss 6
    for ever. SQLite's writers take turns, which is enough. On Postgres a number begins with its transaction's
    (the low 20 bits, from a sequence, tell the rows of one transaction apart), and a reader stops short of the
    oldest transaction that is still under way. Whatever it has not seen yet has a number above its cursor.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(event_number, "sqlite")
def _event_number_sqlite(element: event_number, compiler: Any, **kw: Any) -> str:
    return "NULL"  # the next one, by AUTOINCREMENT


@compiles(settled_events, "sqlite")
def _settled_events_sqlite(element: settled_events, compiler: Any, **kw: Any) -> str:
    return "9223372036854775807"


@compiles(event_number, "postgresql")
def _event_number_postgres(element: event_number, compiler: Any, **kw: Any) -> str:
    return "((pg_current_xact_id()::text::bigint << 20) | (nextval('events_id_seq') & 1048575))"


@compiles(settled_events, "postgresql")
def _settled_events_postgres(element: settled_events, compiler: Any, **kw: Any) -> str:
    return "(pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 20)"
