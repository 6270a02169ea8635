"""The sweep beside the dispatcher: again and again, put off while something is away, and never in the way."""

import os
import time
from pathlib import Path

from farm.cluster import sweeper as room
from farm.cluster.sweeper import Sweeper
from farm.db import leases
from farm.db.engine import migrate, open_database
from farm.domain.errors import StorageUnavailable
from farm.domain.states import Outcome
from farm.ops.logging import start_log
from farm.settings import load_settings
from farm.storage.folder import FolderStore
from tests.cluster.conftest import until
from tests.db.conftest import LANE, register, submit_one


def test_it_is_done_by_itself_and_put_off_while_the_store_is_away(tmp_path: Path, monkeypatch) -> None:
    settings = load_settings(home=tmp_path, sweep_every=0.05)
    settings.make_folders()
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    register(db)
    job = submit_one(db).id
    store = FolderStore(Path(settings.store))
    long_ago = time.time() - 2 * 86_400
    for _ in range(2):
        claim = leases.claim(db, "w1", LANE)
        assert claim is not None
        key = f"{claim.prefix}/video.mp4"
        store.put_bytes(key, b"video")
        os.utime(store.root / key, (long_ago, long_ago))
        if claim.epoch == 1:
            leases.give_back(db, job, 1, Outcome.DRAIN, "drained")
    opened, tries = room.open_store, []

    def away_at_first(where):
        tries.append(where)
        if len(tries) == 1:
            raise StorageUnavailable("the store does not answer", "start it")
        return opened(where)

    monkeypatch.setattr(room, "open_store", away_at_first)
    sweeper = Sweeper(settings, db, start_log("sweeper", settings.log_dir, "INFO"))
    sweeper.start()
    until("the loser's file goes", lambda: store.size(f"videos/{job}/1/video.mp4") is None)
    until("the sweep is told of", lambda: "swept" in (settings.log_dir / "sweeper.log").read_text())
    sweeper.stop()
    assert store.size(f"videos/{job}/2/video.mp4") == 5
    assert "sweep_put_off" in (settings.log_dir / "sweeper.log").read_text()
    sweeper.join()
    db.close()


def test_never_where_it_is_switched_off(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, sweep_every=0)
    settings.make_folders()
    sweeper = Sweeper(settings, None, start_log("sweeper", settings.log_dir, "INFO"))  # type: ignore[arg-type]
    sweeper.start()
    sweeper.join()
    assert not sweeper.running
