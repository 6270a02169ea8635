"""The farm that is measured: a server and render nodes on one machine, CPU workers only."""

from types import TracebackType
from typing import Self

from farm.cluster import ray_node
from farm.cluster.poke import poke
from farm.db import jobs, submission, workers
from farm.db.engine import Database, open_database
from farm.domain.job import Job, JobSpec, NewJob
from farm.domain.worker import Worker
from farm.settings import load_settings
from farm.throwaway import Machine, forget, temporary_folder, until
from model.library import Library
from model.wan.config import preset

MODEL = "demo-t2v"


class Farm:
    """`with Farm({"a": 2, "b": 1}) as farm`: a server without slots, and nodes with so many workers each."""

    def __init__(self, nodes: dict[str, int], pipeline: str, keep: bool = False) -> None:
        self._keep = keep
        self._folder = temporary_folder("bench")
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
            forget(self._folder)
