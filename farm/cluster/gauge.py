"""How hard a worker's device works, looked at now and then, with the last ten minutes kept."""

import time
from collections import deque
from collections.abc import Callable

from farm import gpus
from farm.cluster.device import usable_cores
from farm.domain.worker import Load

EVERY = 10.0  # seconds between two looks
KEPT = 60


class Gauge:
    """One worker's. `gpu` None: it computes on the CPU, and its own share of the cores is what counts."""

    def __init__(self, gpu: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gpu = gpu
        self._clock = clock
        self._looked_at = clock()
        self._cpu_seconds = time.process_time()
        self._load = Load()
        self._utilisations: deque[int] = deque(maxlen=KEPT)
        self._temperatures: deque[int] = deque(maxlen=KEPT)

    def look(self) -> Load:
        """The newest load; a card is asked at most every EVERY seconds."""
        now = self._clock()
        if now - self._looked_at < EVERY:
            return self._load
        seen = self._share_of_cores(now) if self._gpu is None else gpus.reading(self._gpu)
        self._looked_at = now
        if seen is None:  # what was true ten seconds ago would pass for now
            self._load = Load()
            return self._load
        for value, kept in ((seen.utilisation, self._utilisations), (seen.temperature, self._temperatures)):
            if value is not None:
                kept.append(value)
        self._load = Load(
            seen.utilisation, seen.memory, seen.temperature, seen.power,
            tuple(self._utilisations), tuple(self._temperatures),
        )  # fmt: skip
        return self._load

    def _share_of_cores(self, now: float) -> gpus.Reading:
        spent, self._cpu_seconds = self._cpu_seconds, time.process_time()
        share = (self._cpu_seconds - spent) / ((now - self._looked_at) * usable_cores())
        return gpus.Reading(min(100, round(100 * share)), None, None, None)
