"""The processes of one machine of a farm: how each is started, kept alive and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from farm.cluster import processes, ray_node
from farm.cluster.lock import ChildStatus
from farm.ops.logging import Log
from farm.settings import Settings

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 10.0
_SETTLED = 30.0  # seconds of life after which a death is no longer one of a series


@dataclass(frozen=True)
class ChildSpec:
    """`patience`: seconds between `ends_with` and SIGKILL. `takes_along`: who must start anew with it."""

    name: str
    command: Sequence[str]
    patience: float
    takes_along: tuple[str, ...] = ()
    ends_with: signal.Signals = signal.SIGTERM
    tidies: Callable[[], None] = lambda: None  # what it leaves outside of the farm's folder


def children_of(settings: Settings) -> list[ChildSpec]:
    """Of `farm up`, in the order of starting; stopped in the opposite one, so that jobs are given back first."""
    port = int(settings.ray_address.rpartition(":")[2])
    return [
        # A driver of a cluster that is gone would only notice after a minute.
        ChildSpec("ray", ray_node.start_command(settings, port), 5.0, takes_along=("dispatcher",)),
        ChildSpec("api", _module("farm.api.server"), 5.0),
        ChildSpec("agent", _module("farm.cluster.agent"), 15.0),
        ChildSpec("dispatcher", _module("farm.cluster.dispatcher"), 5.0),
    ]


def children_of_server(settings: Settings) -> list[ChildSpec]:
    """Of `farm serve`: an agent only where there are workers to hear."""
    return [child for child in children_of(settings) if child.name != "agent" or settings.workers]


def children_of_node(settings: Settings) -> list[ChildSpec]:
    """Of `farm worker`."""
    return [
        ChildSpec("ray", ray_node.join_command(settings), 5.0),
        ChildSpec("agent", _module("farm.cluster.agent"), 15.0),
    ]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


class Child:
    """In a session of its own: Ctrl-C in the terminal is not for it, and what it starts can be found."""

    def __init__(self, spec: ChildSpec, settings: Settings, environment: Mapping[str, str], log: Log) -> None:
        self.spec = spec
        self.deaths = 0
        self._settings = settings
        self._environment = environment
        self._log = log.bind(child=spec.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._start_at = 0.0
        self._backoff = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def output(self) -> str:
        """Where its stdout and stderr go."""
        return str(self._settings.log_dir / f"{self.spec.name}.out")

    def status(self) -> ChildStatus | None:
        if self._process is None:
            return None
        began = processes.started(self._process.pid)
        return None if began is None else ChildStatus(self.spec.name, self._process.pid, began, self.deaths)

    def look(self) -> bool:
        """Starts it when it is due; True if it has just been found dead."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return False
        code = self._process.poll()
        if code is None:
            return False
        self.deaths += 1
        if time.monotonic() - self._began > _SETTLED:
            self._backoff = 0.0
        self._backoff = min(_LONGEST_BACKOFF, 2 * self._backoff or _FIRST_BACKOFF)
        self._start_at = time.monotonic() + self._backoff
        self._log.warning("child_died", child_pid=self._process.pid, code=code, restart_in=self._backoff)
        processes.end_session(self._process.pid)  # what it had started goes with it
        self._process = None
        return True

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.spec.ends_with)

    def stop(self, hurry: bool = False) -> None:
        """SIGTERM, patience, SIGKILL; afterwards nothing of its session is left."""
        if self._process is None:
            return
        pid = self._process.pid
        self.terminate()
        try:
            self._process.wait(0.1 if hurry else self.spec.patience)
        except subprocess.TimeoutExpired:
            self._log.warning("child_killed", child_pid=pid)
            self._process.kill()
            self._process.wait()
        processes.end_session(pid)
        self.spec.tidies()
        self._process = None

    def restart(self) -> None:
        self.stop(hurry=True)
        self._start_at = 0.0

    def last_words(self) -> str:
        """What it said at the end: the last line of a traceback is the error, else the last two lines are."""
        with open(self.output, "rb") as file:
            file.seek(max(0, os.path.getsize(self.output) - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
        if not lines:
            return "it said nothing"
        return lines[-1] if any(line.startswith("Traceback") for line in lines) else " ".join(lines[-2:])

    def _start(self) -> None:
        with open(self.output, "ab") as out:
            self._process = subprocess.Popen(
                self.spec.command, env=dict(self._environment), stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, cwd=self._settings.home, start_new_session=True,
                preexec_fn=processes.die_with_parent(),  # safe: this process has one thread
            )  # fmt: skip
        self._began = time.monotonic()
        self._log.info("child_started", child_pid=self._process.pid, restarts=self.deaths)
