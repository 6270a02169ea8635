"""When a GPU is set aside, and for how long: pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class QuarantinePolicy:
    """`faults` on different jobs `within` seconds set a GPU aside for `seconds`, then twice as long, and so on.

    One that was in use again for `forgiven` seconds since its last quarantine begins anew.
    """

    faults: int = 2
    within: float = 3600.0
    seconds: float = 900.0
    longest: float = 86400.0
    forgiven: float = 86400.0

    def lasts(self, times: int) -> float:
        """Seconds of the `times`-th quarantine in a row."""
        return min(self.longest, self.seconds * 2.0 ** min(times - 1, 32))

    def next_time(self, times: int, released_at: datetime | None, now: datetime) -> int:
        """Which one in a row a new quarantine is, after `times` of which the last one ended at released_at."""
        past = released_at is not None and now - released_at > timedelta(seconds=self.forgiven)
        return 1 if past else times + 1
