"""The hourly sweep of the store, on a thread of the dispatcher: slow as a bucket is, jobs do not wait for it."""

import threading
from datetime import UTC, datetime

from farm.db.engine import Database
from farm.db.remains import Remains
from farm.domain.errors import FarmError
from farm.ops.logging import Log
from farm.settings import Settings
from farm.storage.collector import Swept, sweep
from farm.storage.store import open_store

_FIRST = 60.0  # seconds: a farm that starts has better things to do


def sweep_store(settings: Settings, db: Database, dry_run: bool = False) -> Swept:
    """Once, now. Raises FarmError while the store or the database are away."""
    register = Remains(db, settings.hidden_kept, settings.sweep_spare)
    return sweep(open_store(settings.store), register, datetime.now(UTC), settings.sweep_spare, dry_run)


class Sweeper:
    """`start` it beside whoever leads the farm. Two at the same time do no harm."""

    def __init__(self, settings: Settings, db: Database, log: Log) -> None:
        self._settings = settings
        self._db = db
        self._log = log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        if self._settings.sweep_every:
            self._thread.start()

    def stop(self) -> None:
        """After the sweep in hand; see `join`."""
        self._stopping.set()

    def join(self) -> None:
        if self.running:
            self._thread.join()

    def _run(self) -> None:
        pause = min(_FIRST, self._settings.sweep_every)
        while not self._stopping.wait(pause):
            pause = self._settings.sweep_every
            try:
                swept = sweep_store(self._settings, self._db)
            except FarmError as error:
                self._log.warning("sweep_put_off", error=error.message)
            except Exception as error:  # the next one is in an hour; jobs go on meanwhile
                self._log.error("sweep_failed", error)
            else:
                kinds = {kind: heap.objects for kind, heap in swept.freed.items() if heap.objects}
                self._log.info("swept", bytes=swept.bytes, unknown=swept.unknown.objects, **kinds)
