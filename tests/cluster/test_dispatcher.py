"""The dispatcher's round without Ray: what it does for the database alone."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from farm.cluster import dispatcher as room
from farm.cluster.dispatcher import Dispatcher
from farm.cluster.poke import dispatcher_listens, poke
from farm.cluster.processes import wait_until
from farm.cluster.slots import Slot
from farm.db import events, leases
from farm.db.engine import Database, migrate, open_database
from farm.domain.errors import TransactionConflict
from farm.ops.logging import start_log
from farm.settings import load_settings
from tests.db.conftest import submit_one


class NoActors:
    """A cluster without a node."""

    def slots(self) -> list[Slot]:
        return []


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_conflict_is_no_outage_and_the_round_begins_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    actors: Any = NoActors()
    dispatcher = Dispatcher(settings, db, actors, start_log("dispatcher", settings.log_dir))
    due, rounds, again = leases.due, list[str](), threading.Event()
    bad = 1 if when == "at the start" else 2

    def conflict(db: Database) -> Any:
        rounds.append("begun")
        if len(rounds) == bad:
            raise TransactionConflict("another transaction was in the way", "try again")
        if len(rounds) > bad:
            again.set()
        return due(db)

    monkeypatch.setattr(leases, "due", conflict)
    monkeypatch.setattr(room, "_POLL", 3600.0)
    counted_anew: list[str] = []  # how long the database has been there: the reaper waits for a whole TTL of it
    monkeypatch.setattr(dispatcher._answering, "failed", lambda: counted_anew.append("failed"))
    running = threading.Thread(target=dispatcher.run, daemon=True)
    running.start()
    if when == "later":
        assert wait_until(lambda: dispatcher_listens(settings), 30)
        poke(settings)
    assert again.wait(30)
    dispatcher.stop()
    running.join(30)
    assert counted_anew == []
    assert "database_away" not in (settings.log_dir / "dispatcher.log").read_text()
    db.close()


def test_what_happened_long_ago_is_forgotten(tmp_path: Path):
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    migrate(settings.database_url)
    long_ago = open_database(settings.database_url, lambda: datetime.now(UTC) - timedelta(days=8))
    db = open_database(settings.database_url)
    submit_one(long_ago)
    kept = submit_one(db).id
    actors: Any = NoActors()
    Dispatcher(settings, db, actors, start_log("test", settings.log_dir)).look()
    assert [event.subject for event in events.read(db, 1)[0]] == [kept]
    assert events.read(db, 0) == ([], True)
    long_ago.close()
    db.close()
