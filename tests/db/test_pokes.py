"""A poke reaches whoever listens to the database, on whatever machine; and it is only a poke."""

import contextlib
import threading

import pytest

from farm.db import jobs, pokes
from farm.db.engine import migrate, open_database
from farm.domain.states import JobState
from tests.db.conftest import submit_one
from tests.private_servers import private_postgres, until


class Ears:
    """A listener on a thread, as dispatcher and agent have it."""

    def __init__(self, url: str) -> None:
        self.heard = threading.Semaphore(0)
        self._db = open_database(url)
        self._over = threading.Event()
        self.thread = threading.Thread(target=pokes.listen, args=(self._db, self.heard.release, self._over))
        self.thread.start()

    def close(self) -> None:
        self._over.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self._db.close()


@pytest.fixture
def ears(url):
    ears = Ears(url)
    yield ears
    ears.close()


def test_every_listener_hears_a_poke(db, url, ears, product):
    if product == "sqlite":
        until("the listener sees that there is nothing to hear", lambda: not ears.thread.is_alive())
        pokes.poke(db)
        return
    other = Ears(url)
    for each in (ears, other):
        assert each.heard.acquire(timeout=30), "on joining: one may have been missed"
    pokes.poke(db)
    for each in (ears, other):
        assert each.heard.acquire(timeout=30)
    other.close()


def test_a_poke_into_a_dead_database_is_silent(db, url, product):
    if product == "sqlite":
        pokes.poke(db)
        return
    with private_postgres() as server:
        gone = open_database(server.server.url)
        server.kill()
        pokes.poke(gone)


def test_a_listener_outlives_its_server(product):
    if product == "sqlite":
        pytest.skip("a file does not die")
    with private_postgres() as server, contextlib.ExitStack() as after:
        migrate(server.server.url)
        ears = Ears(server.server.url)
        after.callback(ears.close)
        assert ears.heard.acquire(timeout=30)
        server.kill()
        server.start()
        assert ears.heard.acquire(timeout=30), "it is back, and looks at once"
        db = open_database(server.server.url)
        after.callback(db.close)
        submit_one(db)
        pokes.poke(db)
        assert ears.heard.acquire(timeout=30)
        assert jobs.counts(db)[JobState.QUEUED] == 1
