"""When a worker's process has served long enough: after so many jobs, or when its memory drifts. Pure."""

from dataclasses import dataclass

# Bytes that come and go with chance and with the size of jobs, and say nothing.
_NOISE = 256 << 20


@dataclass(frozen=True)
class Memory:
    """What the process holds between two jobs, in bytes: RAM, and tensors on its device."""

    resident: int
    device: int


@dataclass(frozen=True)
class Worn:
    """Why the process should make room for a new one. `baseline`: after its first job."""

    why: str  # jobs | memory
    jobs: int
    baseline: Memory
    now: Memory


class Wear:
    """`after` jobs (0: never), or memory more than `drift` (a share; 0: never) over that after the first job."""

    def __init__(self, after: int, drift: float) -> None:
        self._after = after
        self._drift = drift
        self._jobs = 0
        self._models: tuple[str, ...] = ()
        self._baseline: Memory | None = None

    def look(self, models: tuple[str, ...], now: Memory) -> Worn | None:
        """Once after each job. `models`: digests that it keeps in memory; other ones make another baseline."""
        self._jobs += 1
        if self._baseline is None or models != self._models:
            self._models, self._baseline = models, now
        before = self._baseline
        if self._after and self._jobs >= self._after:
            return Worn("jobs", self._jobs, before, now)
        if self._drift and (self._grown(before.resident, now.resident) or self._grown(before.device, now.device)):
            return Worn("memory", self._jobs, before, now)
        return None

    def _grown(self, before: int, now: int) -> bool:
        return now - before > max(_NOISE, self._drift * before)
