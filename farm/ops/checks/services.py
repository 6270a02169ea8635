"""Database and store: reachable, of this version, and (the store) really keeping what it is given."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from farm.db.clock import database_time
from farm.db.engine import check_schema, open_database
from farm.domain.errors import FarmError, SchemaOutdated
from farm.ops.checks.finding import Finding, failed, ok, warning
from farm.storage.store import Store, open_store

_SKEW = 2.0  # seconds between two clocks that nobody notices
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class DatabaseFacts:
    """error: why it cannot be used. skew: its clock minus ours, in seconds."""

    shown: str
    absent: bool = False
    error: FarmError | None = None
    skew: float = 0.0


def read_database(url: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> DatabaseFacts:
    """A SQLite file that does not exist is not made."""
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        return DatabaseFacts(url, absent=True)
    try:
        db = open_database(url, busy_timeout=5.0)
        try:
            check_schema(db)
            before = now()
            said = database_time(db)
            after = now()
        finally:
            db.close()
    except FarmError as error:
        return DatabaseFacts(url, error=error)
    return DatabaseFacts(url, skew=(said - before - (after - before) / 2).total_seconds())


def check_database(facts: DatabaseFacts) -> list[Finding]:
    if facts.absent:
        return [ok("database", f"{facts.shown}: not there yet; `farm up` or `farm serve` makes it")]
    if facts.error is not None:
        what = "its schema is not this version's: " if isinstance(facts.error, SchemaOutdated) else ""
        return [failed("database", what + facts.error.message, facts.error.next or "check database_url")]
    reached = ok("database", f"{facts.shown}: reachable, schema of this version")
    if abs(facts.skew) > _SKEW:
        where = "ahead of" if facts.skew > 0 else "behind"
        skewed = f"its clock is {abs(facts.skew):.1f} s {where} this machine's"
        return [reached, warning("clock", skewed, "let chrony or systemd-timesyncd keep both; leases are safe, but"
                                 " times shown to people are not")]  # fmt: skip
    return [reached, ok("clock", "agrees with the database's")]


def check_store(where: str, open_: Callable[[str], Store] = open_store) -> Finding:
    """Puts a probe, reads it back and takes it away again. A folder that does not exist is not made."""
    folder = where.removeprefix("file://")
    if "://" not in folder and not Path(folder).exists():
        return ok("store", f"{where}: not there yet; `farm up` or `farm serve` makes it")
    key, probe = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(1024)
    try:
        store = open_(where)
        try:
            store.put_bytes(key, probe)
            kept = b"".join(store.open(key))
        finally:
            store.delete([key])
        left = store.size(key)
    except FarmError as error:
        return failed("store", f"{where}: {error.message}", error.next or "check store, and its keys")
    if kept != probe:
        return failed("store", f"{where}: gave back other bytes than it was given", "do not use this store")
    if left is not None:
        return warning("store", f"{where}: does not delete", "allow deletion, or old videos are never removed")
    return ok("store", f"{where}: writes, reads and deletes")
