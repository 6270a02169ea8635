"""Postgres connections of those behind whom a person waits: a server that says nothing counts as away in seconds.

Its machine acknowledges what is sent to a frozen server, so neither the network nor the server's own limits
notice: only a watch on our side of the connection does.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event

# Seconds that each may be waited for. A look whether a connection still lives is no work for a server; where it
# is late nevertheless, a new connection is the second chance.
CONNECT = 2
_LOOK = 1.0
_READ = 5.0
_BELIEVED = 2.0  # seconds in which nobody asks again a server that did not even greet us

SILENT = "timeout expired"  # libpq's own word for a server that does not greet


class _Watched(psycopg.Connection[Any]):
    """`within`: seconds for each answer."""

    within: float = CONNECT

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The driver's own conversation; each look at the clock comes from its waking up some times a second."""
        deadline = time.monotonic() + self.within
        try:
            ready = yield next(gen)
            while True:
                if not ready and time.monotonic() > deadline:
                    self.close()  # whatever it may say one day is no answer to the next question
                    raise psycopg.OperationalError(f"no answer: {SILENT}")
                ready = yield gen.send(ready)
        except StopIteration as end:
            return end.value


def watch(engine: Engine, write: float) -> None:
    """From now on. `write`: seconds that a statement of a transaction that writes may take."""
    silent_until = 0.0

    @event.listens_for(engine, "do_connect")
    def _connect(  # pyright: ignore[reportUnusedFunction]
        _dialect: object, _record: object, args: Any, parameters: Any
    ) -> Any:
        nonlocal silent_until
        if time.monotonic() < silent_until:
            raise psycopg.errors.ConnectionTimeout(SILENT)
        try:
            return _Watched.connect(*args, **parameters)
        except psycopg.errors.ConnectionTimeout:
            silent_until = time.monotonic() + _BELIEVED
            raise

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        nonlocal silent_until
        silent_until = 0.0  # it has answered somebody
        reads = connection.get_execution_options().get("postgresql_readonly", False)
        _of(connection.connection.driver_connection).within = _READ if reads else write

    @event.listens_for(engine, "checkin")
    def _checkin(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        if connection is not None:  # None: it was given up
            _of(connection).within = _LOOK


def _of(connection: Any) -> _Watched:
    assert isinstance(connection, _Watched)
    return connection
