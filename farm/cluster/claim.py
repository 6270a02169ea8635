"""A worker's own view of its claim: what it reports, what it is told, and how long it may trust it."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from farm.domain.job import Assignment, Progress
from farm.domain.states import Order, Outcome, StageName

_STOPS = {Order.LOST: Outcome.LOST, Order.CANCEL: Outcome.CANCELLED, Order.DRAIN: Outcome.DRAIN}
# The worker gives up this share of the TTL before the database would, for the clocks' sake.
_MARGIN = 0.1


def steady_clock() -> float:
    """Seconds that never jump, and that go on while a process is stopped or a laptop sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@dataclass(frozen=True)
class Overdue:
    """A stage that made no progress for `seconds`, where `allowed` are long enough."""

    at: Progress
    seconds: float
    allowed: float

    @property
    def cause(self) -> str:
        where = f"{self.at.stage}, step {self.at.k} of {self.at.n}" if self.at.n else str(self.at.stage)
        return f"no progress for {self.seconds:.0f} s in {where}; {self.allowed:.0f} s are long enough"


class Claim:
    """Shared by the render thread (reports, asks) and the beat thread (reads, is told)."""

    def __init__(self, assignment: Assignment, ttl: float, clock: Callable[[], float] = steady_clock) -> None:
        self.assignment = assignment
        self.changed = threading.Event()  # progress moved: a beat is due now
        self.told = threading.Event()  # an order to stop has come: wakes whoever waits
        self._ttl = ttl
        self._clock = clock
        self._renewed_at = clock()
        self._order = Order.CONTINUE
        self._progress = Progress(StageName.LOADING, worker=assignment.worker)
        self._progress_at = clock()
        self._allowed: Mapping[StageName, float] = {}
        self._lock = threading.Lock()

    @property
    def progress(self) -> Progress:
        return self._progress

    def report(self, stage: StageName, k: int = 0, n: int = 0) -> None:
        with self._lock:
            self._progress = replace(self._progress, stage=stage, k=k, n=n)
            self._progress_at = self._clock()
        self.changed.set()

    def report_preview(self, step: int) -> None:
        """The preview of `step` is in the store."""
        with self._lock:
            self._progress = replace(self._progress, preview_step=step)
        self.changed.set()

    def renewed(self, sent: float) -> None:
        """The database has seen the beat of that time: the lease lasts at least `ttl` from then."""
        with self._lock:
            self._renewed_at = max(self._renewed_at, sent)

    def heed(self, order: Order) -> None:
        """Orders to stop stay: a later continue is an older answer that came late; lost overrules all."""
        with self._lock:
            if order is not Order.CONTINUE and self._order is not Order.LOST:
                self._order = order
        if order is not Order.CONTINUE:
            self.told.set()

    def allow(self, seconds: Mapping[StageName, float]) -> None:
        """How long each stage may go without progress; one that is not named may for ever."""
        self._allowed = seconds

    def overdue(self) -> Overdue | None:
        """Whether the present stage has hung for longer than it may."""
        with self._lock:
            at, since = self._progress, self._clock() - self._progress_at
        allowed = self._allowed.get(at.stage)
        return None if allowed is None or since <= allowed else Overdue(at, since, allowed)

    def since_renewal(self) -> float:
        return self._clock() - self._renewed_at

    @property
    def fenced(self) -> bool:
        """The lease may be over: no more work on the device, though a finished file may still be offered."""
        return self.since_renewal() >= self._ttl * (1 - _MARGIN)

    def told_to_stop(self) -> Outcome | None:
        """What an order makes of this attempt: LOST, CANCELLED or DRAIN."""
        return _STOPS.get(self._order)

    def must_stop(self) -> Outcome | None:
        """Why the render must not go on, if it must not."""
        return self.told_to_stop() or (Outcome.LOST if self.fenced else None)
