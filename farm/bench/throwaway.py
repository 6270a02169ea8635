"""A farm for one measurement: a server and render nodes on loopback, in a temporary folder, CPU workers only."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from farm.cluster import processes, ray_node
from farm.cluster.lock import read_status
from farm.cluster.poke import poke
from farm.db import jobs, submission, workers
from farm.db.engine import Database, open_database
from farm.domain.errors import FarmError
from farm.domain.job import Job, JobSpec, NewJob
from farm.domain.worker import Worker
from farm.settings import Settings, load_settings
from model.library import Library
from model.wan.config import preset

MODEL = "demo-t2v"
_PATIENCE = 120.0  # seconds for anything to happen at all

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


class Machine:
    """One `farm serve` or `farm worker` with a folder of its own."""

    def __init__(self, settings: Settings, command: list[str]) -> None:
        self.settings = settings
        self._command = [sys.executable, "-m", "farm.cli.main", *command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.settings.make_folders()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FARM_", "CUDA_"))}
        out = (self.settings.log_dir / "farm.out").open("ab")
        self._process = subprocess.Popen(
            self._command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**clean, **self.settings.environment(), "PYTHONPATH": ray_node.import_path()},
        )  # fmt: skip
        until(f"{self.settings.home.name} is up", lambda: self._ended() or read_status(self.settings).ready)

    def processes(self) -> list[int]:
        """Of the whole machine, its workers included."""
        status = read_status(self.settings)
        leaders = [status.pid, *(child.pid for child in status.children)]
        return [pid for leader in leaders for pid in processes.session_members(leader)]

    def signal(self, number: signal.Signals) -> None:
        processes.send(self.processes(), number)

    def end(self) -> None:
        """Orderly if it can, and in any case."""
        if self._process is None:
            return
        everybody = self.processes()
        processes.send(everybody, signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            processes.send(everybody, signal.SIGKILL)
            self._process.kill()
            self._process.wait()

    def _ended(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise NeverHappened(
                f"{self.settings.home.name} ended: {(self.settings.log_dir / 'farm.out').read_text()[-500:]}"
            )
        return False


class Farm:
    """`with Farm({"a": 2, "b": 1}) as farm`: a server without slots, and nodes with so many workers each."""

    def __init__(self, nodes: dict[str, int], pipeline: str, keep: bool = False) -> None:
        self._keep = keep
        self._folder = Path(tempfile.mkdtemp(prefix="farm-bench-"))
        self.settings = load_settings(
            home=self._folder / "server", port=ray_node.free_port(), ray_port=ray_node.free_port(),
            pipeline=pipeline, model=MODEL, workers=0,
        )  # fmt: skip
        self.server = Machine(self.settings, ["serve"])
        token = self.settings.home / "farm-token"
        join = ["worker", "--join", f"127.0.0.1:{self.settings.ray_port}", "--token-file", str(token)]
        self.nodes = {
            name: Machine(
                load_settings(
                    home=self._folder / name, node=name, workers=count, database_url=self.settings.database_url,
                    store=self.settings.store,
                ),
                join,
            )
            for name, count in nodes.items()
        }  # fmt: skip
        self._digest = Library().digest(preset(MODEL))
        self._count = sum(nodes.values())
        self.db: Database

    def __enter__(self) -> Self:
        try:
            self.server.start()
            self.db = open_database(self.settings.database_url)
            for node in self.nodes.values():
                node.start()
            self.wait_idle()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.db.close()
        self._end()

    def submit(self, seconds: float) -> str:
        """A job whose denoising lasts so long."""
        steps = max(1, round(seconds * 10))
        spec = JobSpec(
            kind="t2v", model=MODEL, model_digest=self._digest, prompt="a square", width=96, height=96, frames=17,
            fps=12, steps=steps, seed=7, guidance=1.0,
        )  # fmt: skip
        (submitted,) = submission.submit(self.db, [NewJob(spec)])
        poke(self.settings)
        return submitted.job.id

    def job(self, job: str) -> Job:
        return jobs.get(self.db, job)

    def denoising(self, job: str, epoch: int = 1) -> Worker:
        """Waits until this claim of the job has done a step; whose it is."""

        def found() -> Worker | None:
            now = self.job(job)
            at = now.progress
            if now.epoch < epoch or at is None or at.stage != "denoise" or at.k < 1:
                return None
            return next((w for w in self.workers() if w.id == at.worker), None)

        return until(f"the job denoises in attempt {epoch}", found)

    def workers(self) -> list[Worker]:
        return [w for w in workers.find(self.db, gone_within=0.0) if w.state != "gone"]

    def wait_idle(self) -> list[Worker]:
        def idle() -> list[Worker] | None:
            found = self.workers()
            whole = len(found) == self._count and all(worker.state == "idle" for worker in found)
            return found if whole else None

        return until(f"{self._count} workers are idle", idle)

    def node_of(self, worker: Worker) -> Machine:
        return self.nodes[worker.node]

    def _end(self) -> None:
        for machine in (*self.nodes.values(), self.server):
            machine.end()
        if self._keep:
            print(f"kept: {self._folder}")
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
