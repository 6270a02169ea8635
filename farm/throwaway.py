"""Farms for one measurement or one trial: on loopback, in a temporary folder, and nothing of them stays."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from farm.cluster import processes, ray_node
from farm.cluster.lock import end_leftovers, read_status
from farm.domain.errors import FarmError
from farm.settings import Settings

_PATIENCE = 180.0  # seconds for anything to happen at all, on a machine with few cores under load
_STOP_PATIENCE = 60.0
_LAST = 30  # lines of what it said that are worth telling

T = TypeVar("T")


class NeverHappened(FarmError):
    code = "never_happened"


def until(what: str, condition: Callable[[], T | None], patience: float = _PATIENCE) -> T:
    """The first true value of `condition`. Raises NeverHappened."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NeverHappened(f"{what}: not within {patience:.0f} s", "look into the logs: --keep keeps them")
        time.sleep(0.02)
    return value


def temporary_folder(kind: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"turbofarm-{kind}-"))
    folder.chmod(0o755)  # Postgres may have to be another user; secrets lie deeper, in closed folders
    return folder


def forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


class Machine:
    """One `farm up`, `farm serve` or `farm worker` with a folder of its own, and all that it starts."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self.settings = settings
        self._command = [sys.executable, "-m", "farm.cli.main", *command]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def over(self) -> bool:
        """Whether its supervisor has ended."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """And wait until it is ready; again, too, where it has ended. Raises NeverHappened with its last words."""
        self.settings.make_folders()
        # Nothing of the caller's own farm finds its way in.
        foreign = ("FARM_", "AWS_", "CUDA_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        with self._out.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**clean, **self.settings.environment(), "PYTHONPATH": ray_node.import_path()},
                preexec_fn=processes.die_with_parent(),
            )  # fmt: skip
        until(f"{self.settings.home.name} is up", lambda: self._ended_early() or read_status(self.settings).ready)

    def wait(self) -> None:
        """Until its supervisor ends by itself."""
        assert self._process is not None
        self._process.wait()

    def last_words(self) -> str:
        return "\n".join(self._out.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST:])

    def processes(self) -> list[int]:
        """Of the whole machine, its workers included."""
        status = read_status(self.settings)
        leaders = [status.pid, *(child.pid for child in status.children)]
        return [pid for leader in leaders for pid in processes.session_members(leader)]

    def signal(self, number: signal.Signals) -> None:
        processes.send(self.processes(), number)

    def end(self) -> None:
        """Orderly if it can, and in any case: its supervisor ends the others, and who is left is killed here."""
        if self._process is None:
            return
        children, everybody = read_status(self.settings).children, self.processes()
        processes.send(everybody, signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            processes.send(everybody, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        end_leftovers(children)
        self.settings.remove_fallback_folders()

    @property
    def _out(self) -> Path:
        return self.settings.log_dir / "farm.out"

    def _ended_early(self) -> bool:
        if self.over:
            raise NeverHappened(
                f"{self.settings.home.name} did not start:\n{self.last_words()}", "try: farm doctor"
            )
        return False
