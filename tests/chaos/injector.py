"""Faults at every statement, commit and storage call: before, after it took effect, slow, and a dead process.

Points are counted, so that a fault has a place (`the 217th`) at which it can be repeated.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg

from farm.db.engine import Database
from farm.domain.errors import StorageUnavailable
from farm.storage.store import Store


class Kind(StrEnum):
    BEFORE = "before"  # it never reached the server
    AFTER = "after"  # it took effect, and the answer was lost
    HANG_BEFORE = "hang-before"  # the same, and the caller waited for long before it knew
    HANG_AFTER = "hang-after"
    KILL_BEFORE = "kill-before"  # the process that asked dies, and with it all that it knew
    KILL_AFTER = "kill-after"

    @property
    def takes_effect(self) -> bool:
        return self in {Kind.AFTER, Kind.HANG_AFTER, Kind.KILL_AFTER}

    @property
    def kills(self) -> bool:
        return self in {Kind.KILL_BEFORE, Kind.KILL_AFTER}

    @property
    def hangs(self) -> bool:
        return self in {Kind.HANG_BEFORE, Kind.HANG_AFTER}


COMMIT = "COMMIT"  # the name of that point
ERRORS = tuple(kind for kind in Kind if not kind.kills)


class Killed(BaseException):
    """SIGKILL, as far as code in the same process can be made to feel it: nothing catches it, nothing is told."""


@dataclass(frozen=True)
class Fault:
    """`seconds`: how long a hang lasts."""

    kind: Kind
    seconds: float = 45.0


class Injector:
    """`hang` is called with the seconds of a hang: a test's clock moves, and nobody waits."""

    def __init__(self, hang: Callable[[float], None]) -> None:
        self._hang = hang
        self.reset()

    def reset(self, plan: dict[int, Fault] | None = None) -> None:
        self.count = 0
        self.plan = dict(plan or {})
        self.at_commit: Fault | None = None
        self.fired: list[tuple[int, str, Kind]] = []
        self.trace: list[str] = []
        self.tracing = False

    def arm(self, fault: Fault, ahead: int | None = 0) -> None:
        """At the next point, or `ahead` points later; None: at the next commit."""
        if ahead is None:
            self.at_commit = fault
        else:
            self.plan[self.count + ahead] = fault

    def disarm(self) -> None:
        self.plan.clear()
        self.at_commit = None

    def point(
        self, name: str, do: Callable[[], Any], broken: Callable[[], Exception], dies: Callable[[], object] = bool
    ) -> Any:
        """`broken` makes the error that the caller sees; `dies` does what the end of the process would do."""
        number, self.count = self.count, self.count + 1
        if self.tracing:
            self.trace.append(name)
        fault = self.plan.pop(number, None)
        if fault is None and name == COMMIT:
            fault, self.at_commit = self.at_commit, None
        if fault is None:
            return do()
        self.fired.append((number, name, fault.kind))
        if fault.kind.hangs:
            self._hang(fault.seconds)
        if fault.kind.takes_effect:
            do()
        if fault.kind.kills:
            dies()
            raise Killed
        raise broken()


def inject(db: Database, injector: Injector) -> None:
    """From now on every statement and every commit of this database is a point of `injector`."""
    dialect: Any = db._engine.dialect
    product = type(dialect)
    is_sqlite = db.dialect == "sqlite"

    def disk_error() -> Exception:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        return error

    def cut_off(connection: Any) -> Exception:
        connection.close()
        return psycopg.OperationalError("server closed the connection unexpectedly")

    def statement(name: str) -> Any:
        really = getattr(product, name)

        def do(cursor: Any, text: str, *rest: Any) -> Any:
            def broken() -> Exception:
                return disk_error() if is_sqlite else cut_off(cursor.connection)

            label = " ".join(text.split())[:60]
            return injector.point(
                label, lambda: really(dialect, cursor, text, *rest), broken, cursor.connection.rollback
            )

        return do

    def commit(connection: Any) -> None:
        def broken() -> Exception:
            return disk_error() if is_sqlite else cut_off(connection.driver_connection)

        injector.point(COMMIT, lambda: product.do_commit(dialect, connection), broken, connection.rollback)

    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, statement(name))
    dialect.do_commit = commit


class FaultyStore:
    """A store whose every call is a point."""

    def __init__(self, store: Store, injector: Injector) -> None:
        self._store = store
        self._injector = injector
        self.name = store.name

    def put(self, key: str, path: Path, sha256: str) -> None:
        self._point("put", lambda: self._store.put(key, path, sha256))

    def put_bytes(self, key: str, data: bytes) -> None:
        self._point("put_bytes", lambda: self._store.put_bytes(key, data))

    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        return self._point("open", lambda: self._store.open(key, start, end))

    def size(self, key: str) -> int | None:
        return self._point("size", lambda: self._store.size(key))

    def list(self, prefix: str) -> Iterator[str]:
        return self._point("list", lambda: self._store.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        self._point("delete", lambda: self._store.delete(keys))

    def check(self) -> None:
        self._point("check", self._store.check)

    def url(self, key: str, seconds: float, disposition: str | None = None) -> str | None:
        return self._store.url(key, seconds, disposition)

    def _point(self, name: str, do: Callable[[], Any]) -> Any:
        return self._injector.point(f"store.{name}", do, lambda: StorageUnavailable("the store is away", "wait"))
