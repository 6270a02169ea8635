"""The dispatcher's round without Ray: what it does for the database alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from farm.cluster.dispatcher import Dispatcher
from farm.cluster.slots import Slot
from farm.db import events
from farm.db.engine import migrate, open_database
from farm.ops.logging import start_log
from farm.settings import load_settings
from tests.db.conftest import submit_one


class NoActors:
    """A cluster without a node."""

    def slots(self) -> list[Slot]:
        return []


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
