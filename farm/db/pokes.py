"""Waking who waits on other machines. A poke only makes them look earlier; polling stays the guarantee."""

import contextlib
import threading
from collections.abc import Callable

from farm.db import dialect
from farm.db.engine import Database
from farm.domain.errors import FarmError

_LOOK = 1.0  # seconds between two looks whether it is over
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries to reach a database that is away


def poke(db: Database) -> None:
    """After a change that somebody waits for has been committed. Never raises: the change is durable already."""
    if db.passes_pokes:
        with contextlib.suppress(FarmError), db.write() as conn:
            dialect.poke(conn)


def listen(db: Database, heard: Callable[[], None], over: threading.Event) -> None:
    """Calls `heard` after each poke, and after each gap in which one may have been missed, until it is `over`.

    Returns at once where the database tells nobody.
    """
    pause = _FIRST_PAUSE
    while not over.is_set():
        try:
            pokes = db.pokes(_LOOK)
            if pokes is None:
                return
            with contextlib.closing(pokes):
                for came in pokes:
                    pause = _FIRST_PAUSE
                    if came:
                        heard()
                    if over.is_set():
                        return
        except FarmError:  # those who look by themselves say it already
            over.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
