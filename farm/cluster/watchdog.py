"""A claim that makes no progress for too long: its process ends itself, and says why. Liveness is not progress."""

import threading
import time
from collections.abc import Callable

from farm.cluster.claim import Claim, Overdue
from farm.ops.logging import Log

_LOOK_EVERY = 0.5


class Watchdog:
    """A thread beside the render thread. `bite` is called once, and is to end the process."""

    def __init__(self, look: Callable[[], Claim | None], bite: Callable[[Claim, Overdue], None], log: Log) -> None:
        self._look = look
        self._bite = bite
        self._log = log

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            claim = self._look()
            overdue = None if claim is None else claim.overdue()
            if claim is not None and overdue is not None:
                self._log.error(
                    "stage_hangs", job=claim.assignment.job, epoch=claim.assignment.epoch, cause=overdue.cause
                )
                return self._bite(claim, overdue)
