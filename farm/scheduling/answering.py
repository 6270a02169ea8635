"""Whether a database has answered for long enough that an expired lease means a silent worker. No I/O."""

from collections.abc import Callable


class Answering:
    """The reaper's guard: while the database was away nobody could renew, so its absence expires leases too.

    `clock`: seconds that never jump and go on while a process is stopped (the reaper itself may have slept).
    """

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._clock = clock
        self._since = self._last = clock()

    def answered(self) -> bool:
        """Call after each good round: whether it has answered, without a gap, for one full TTL."""
        now = self._clock()
        if now - self._last > self._ttl / 2:
            self._since = now
        self._last = now
        return now - self._since >= self._ttl

    def failed(self) -> None:
        """It did not answer: the TTL begins anew."""
        self._since = self._last = self._clock()
