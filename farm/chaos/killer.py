"""SIGKILL, and SIGSTOP with a SIGCONT later, to the processes of one farm: who is there, next, and back."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from farm.chaos.journal import FaultRecord, Journal, Kind
from farm.cluster import processes
from farm.cluster.lock import read_status
from farm.db import workers
from farm.db.engine import Database
from farm.domain.errors import FarmError
from farm.settings import Settings

# How often each is hit: what renders most, what all else hangs from least, for its return takes longest.
_WEIGHTS = {
    "worker": 9, "agent": 3, "dispatcher": 3, "api": 3, "raylet": 1, "gcs": 1, "ray": 1, "postgres": 2,
    "seaweedfs": 2, "node": 1,
}  # fmt: skip
_NODE = ("ray", "agent")
_BELOW_RAY = {"raylet": "raylet/raylet", "gcs": "gcs_server"}  # as their command lines begin
_FIRST = 120.0  # seconds in which at least one fault is to be had
_PAUSE = (2.0, 5.0)  # seconds between two faults
_FREEZES = (1.0, 5.0, 12.0, 25.0)  # seconds: a hiccup, within a lease, past it, past all patience
_KILLS = 0.7  # of all faults
_STANDS_UP = 45.0  # seconds that a farm without any worker is left in peace
_RETURN = 60.0  # seconds in which a successor is looked for


@dataclass(frozen=True)
class Target:
    """`pids` are hit together: of a server with children a frozen parent alone would not be noticed."""

    name: str
    pids: tuple[int, ...]


class Killer:
    """`run` for some seconds; afterwards nothing is left frozen."""

    def __init__(
        self, settings: Settings, db: Database, journal: Journal, seed: int, say: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._db = db
        self._journal = journal
        self._dice = random.Random(seed)
        self._say = say
        self._frozen: dict[int, threading.Timer] = {}
        self._began = self._hit_at = time.monotonic()

    def run(self, seconds: float, over: threading.Event) -> None:
        """For so long, and on until something was hit: on a busy machine a look around takes seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < (end if self._journal.faults else end + _FIRST):
            if over.wait(self._dice.uniform(*_PAUSE)):
                break
            target = self._choose()
            if target is not None:
                self._hit(target)
            self._look_who_is_back()

    def thaw(self) -> None:
        for pid, timer in list(self._frozen.items()):
            timer.cancel()
            self._continue((pid,))

    def wait_all_back(self, seconds: float) -> None:
        """For the record of the last faults' recoveries."""
        end = time.monotonic() + seconds
        while any(self._is_awaited(fault) for fault in self._journal.faults) and time.monotonic() < end:
            self._look_who_is_back()
            time.sleep(0.2)

    def _hit(self, target: Target) -> None:
        kind = Kind.KILL if self._dice.random() < _KILLS else Kind.FREEZE
        record = FaultRecord(time.time(), target.name, kind, target.pids)
        if kind is Kind.FREEZE:
            record.seconds = self._dice.choice(_FREEZES)
        self._journal.fault(record)
        self._hit_at = time.monotonic()
        for pid in target.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kind is Kind.KILL else signal.SIGSTOP)
            if kind is Kind.FREEZE:
                timer = threading.Timer(record.seconds, self._continue, ((pid,),))
                timer.daemon = True
                self._frozen[pid] = timer
                timer.start()
        how = "SIGKILL" if kind is Kind.KILL else f"SIGSTOP for {record.seconds:.0f} s"
        self._say(f"{time.monotonic() - self._began:6.1f} s  {how:18} {target.name} (pid {target.pids[0]})")

    def _continue(self, pids: tuple[int, ...]) -> None:
        for pid in pids:
            self._frozen.pop(pid, None)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # -- who is there ------------------------------------------------------------------------------

    def _choose(self) -> Target | None:
        everybody = self.targets()
        works = any(target.name == "worker" for target in everybody)
        if not works and time.monotonic() - self._hit_at < _STANDS_UP:
            return None  # a farm that is never let up proves nothing
        there = [target for target in everybody if not any(pid in self._frozen for pid in target.pids)]
        names = sorted({target.name for target in there})
        if not names:
            return None
        (name,) = self._dice.choices(names, [_WEIGHTS.get(name, 1) for name in names])
        return self._dice.choice([target for target in there if target.name == name])

    def targets(self) -> list[Target]:
        """Everything of this farm that can be hit now, but its supervisor."""
        found = self._workers()
        node: list[int] = []  # all that would go with this machine if it only rendered
        for child in read_status(self._settings).children:
            members = processes.session_members(child.pid)
            if child.name in _NODE:
                node += [child.pid, *(pid for pid in members if pid != child.pid)]
            if child.name == "ray":
                found += self._below_ray(members)
                found.append(Target("ray", (child.pid,)))
            elif members:
                found.append(Target(child.name, (child.pid, *(pid for pid in members if pid != child.pid))))
        return [*found, Target("node", tuple(node))] if node else found

    def _workers(self) -> list[Target]:
        with contextlib.suppress(FarmError):  # the database was hit just now
            alive = [w.pid for w in workers.find(self._db, gone_within=0.0) if w.state != workers.GONE]
            return [Target("worker", (pid,)) for pid in alive if processes.started(pid) is not None]
        return []

    def _below_ray(self, members: list[int]) -> list[Target]:
        found: list[Target] = []
        for pid in members:
            with contextlib.suppress(OSError):
                program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                found += [Target(name, (pid,)) for name, end in _BELOW_RAY.items() if program.endswith(end)]
        return found

    def _is_awaited(self, fault: FaultRecord) -> bool:
        return fault.kind is Kind.KILL and fault.back is None and time.time() - fault.at < _RETURN

    def _look_who_is_back(self) -> None:
        """A killed process is back when another of its name runs, with as many beside it as before."""
        awaited = [fault for fault in self._journal.faults if self._is_awaited(fault)]
        if not awaited:
            return
        running: dict[str, set[int]] = {}
        for target in self.targets():
            running.setdefault(target.name, set()).add(target.pids[0])
        wanted = self._settings.workers or 1
        for fault in awaited:
            there = running.get(fault.target, set()) - {fault.pids[0]}
            if len(there) >= (wanted if fault.target == "worker" else 1):
                fault.back = time.time()
