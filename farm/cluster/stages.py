"""Seconds per stage of one attempt, and the stage that people see."""

import time
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from farm.cluster.claim import Claim
from farm.domain.states import StageName


class StageClock:
    """Every moment belongs to exactly one stage, so the timings add up to the attempt."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._seconds: defaultdict[StageName, float] = defaultdict(float)
        self._stage: StageName | None = None
        self._since = time.perf_counter()

    def enter(self, stage: StageName, steps: int = 0) -> None:
        self._turn(stage)
        self._claim.report(stage, 0, steps)

    @contextmanager
    def aside(self, stage: StageName) -> Generator[None]:
        """Counts for `stage`, without showing it: frames are encoded while others are still decoded."""
        before = self._stage
        self._turn(stage)
        try:
            yield
        finally:
            self._turn(before)

    def stop(self) -> Mapping[str, float]:
        """Seconds per stage. Safe to call again."""
        self._turn(None)
        return {stage.value: round(seconds, 4) for stage, seconds in self._seconds.items()}

    def _turn(self, stage: StageName | None) -> None:
        now = time.perf_counter()
        if self._stage is not None:
            self._seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now
