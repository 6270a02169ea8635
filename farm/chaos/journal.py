"""What the client was told and what was broken when, in plain records: the audit holds the farm to both."""

import threading
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    KILL = "kill"  # SIGKILL
    FREEZE = "freeze"  # SIGSTOP, and later SIGCONT


@dataclass
class FaultRecord:
    """One process broken. `at` and `until` in seconds since the epoch; `back`: when its successor was seen."""

    at: float
    target: str
    kind: Kind
    pids: tuple[int, ...]
    seconds: float = 0.0  # of a freeze
    back: float | None = None

    @property
    def until(self) -> float:
        return self.at + self.seconds


@dataclass(frozen=True)
class Accepted:
    """A 2xx: from here on the farm owes this job an end."""

    job: str
    key: str | None
    frames: int
    size: tuple[int, int]


@dataclass
class Journal:
    """Written by the load's thread and by the killer's."""

    accepted: dict[str, Accepted] = field(default_factory=dict[str, Accepted])
    by_key: dict[str, str] = field(default_factory=dict[str, str])
    cancelled: set[str] = field(default_factory=set[str])
    retried: set[str] = field(default_factory=set[str])
    two_for_one_key: list[str] = field(default_factory=list[str])
    unanswered: int = 0  # requests without an answer: nobody knows what became of them
    faults: list[FaultRecord] = field(default_factory=list[FaultRecord])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, said: dict[str, Any], key: str | None) -> None:
        one = Accepted(said["id"], key, said["frames"], (said["width"], said["height"]))
        with self.lock:
            self.accepted.setdefault(one.job, one)
            if key is not None and self.by_key.setdefault(key, one.job) != one.job:
                self.two_for_one_key.append(f"the key {key} made {self.by_key[key]}, then {one.job}")

    def fault(self, record: FaultRecord) -> None:
        with self.lock:
            self.faults.append(record)

    def plain(self) -> dict[str, Any]:
        """For a file."""
        with self.lock:
            return {
                "accepted": [asdict(one) for one in self.accepted.values()],
                "cancelled": sorted(self.cancelled), "retried": sorted(self.retried),
                "faults": [asdict(one) for one in self.faults], "written": time.time(),
            }  # fmt: skip
