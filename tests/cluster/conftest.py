"""A farm without web page for tests: real Ray, agent, dispatcher and database; a model that draws squares.

One Ray session serves a module; each test gets the folder's database, and jobs of its own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from farm.cluster import ray_node
from farm.cluster.poke import dispatcher_listens, poke
from farm.db import jobs, submission, workers
from farm.db.engine import Database, migrate, open_database
from farm.domain.job import Job, JobSpec, NewJob
from farm.domain.worker import Worker
from farm.settings import Settings, load_settings
from tests.cluster.fake_model import DIGEST

ROOT = Path(__file__).resolve().parents[2]


def until(what: str, condition: Callable[[], Any], seconds: float = 80.0) -> Any:
    """The first true value of `condition`. A deadline that only a broken farm can miss."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"{what} did not happen within {seconds} s")


@dataclass
class Farm:
    """The processes, and the questions that tests ask."""

    settings: Settings
    db: Database
    environment: dict[str, str]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, command: list[str]) -> None:
        with (self.settings.log_dir / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, cwd=ROOT, start_new_session=True, stdout=out, stderr=out
            )

    def start_agent(self) -> None:
        self.start("agent", [sys.executable, "-m", "farm.cluster.agent"])

    def start_dispatcher(self) -> None:
        self.start("dispatcher", [sys.executable, "-m", "farm.cluster.dispatcher"])
        until("the dispatcher is ready", lambda: dispatcher_listens(self.settings))

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in ("dispatcher", "agent", "ray"):
            if name in self.processes:
                process = self.processes[name]
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def submit(self, prompt: str, **kwargs: Any) -> str:
        spec = JobSpec(
            kind="t2v", model="demo-t2v", model_digest=DIGEST, prompt=prompt, width=96, height=96, frames=17,
            fps=12, steps=8, seed=7, guidance=3.0,
        )  # fmt: skip
        (submitted,) = submission.submit(self.db, [NewJob(spec, **kwargs)])
        poke(self.settings)
        return submitted.job.id

    def job(self, job: str) -> Job:
        return jobs.get(self.db, job)

    def wait_final(self, job: str, seconds: float = 120.0) -> Job:
        return until(f"job {job} ends", lambda: (j := self.job(job)).state.final and j, seconds)

    def wait_step(self, job: str, k: int = 2) -> Job:
        """Until the job denoises: the fake model waits behind step 2 for its gate."""

        def denoising() -> Job | None:
            found = self.job(job)
            at = found.progress
            return found if at is not None and at.stage == "denoise" and at.k >= k else None

        return until(f"job {job} denoises", denoising)

    def workers(self) -> list[Worker]:
        return [w for w in workers.find(self.db, gone_within=0.0) if w.state != "gone"]

    def wait_idle(self, count: int = 1) -> list[Worker]:
        return until(
            "workers are idle",
            lambda: len(w := self.workers()) == count and all(x.state == "idle" for x in w) and w,
        )

    def events(self, process: str) -> list[dict[str, Any]]:
        """The structured log of every process whose name begins so."""
        lines: list[dict[str, Any]] = []
        for path in sorted(self.settings.log_dir.glob(f"{process}*.log")):
            lines += [json.loads(line) for line in path.read_text().splitlines()]
        return lines


def make_farm(home: Path, **options: Any) -> Farm:
    settings = load_settings(
        home=home, lease_ttl=4.0, renew_every=1.0, beat_every=0.3,
        ray_address=f"127.0.0.1:{ray_node.free_port()}", **{"quarantine_after": 100, **options},
    )  # fmt: skip
    settings.make_folders()
    migrate(settings.database_url)
    ray_node.make_token(settings)
    environment = {
        **os.environ, **settings.environment(), **ray_node.ray_environment(settings), "PYTHONPATH": str(ROOT)
    }  # fmt: skip
    return Farm(settings, open_database(settings.database_url), environment)


@contextmanager
def started(farm: Farm, workers: int) -> Iterator[Farm]:
    try:
        farm.start("ray", ray_node.start_command(farm.settings, int(farm.settings.ray_address.split(":")[1])))
        farm.start_agent()
        farm.start_dispatcher()
        farm.wait_idle(workers)
        yield farm
    finally:
        farm.stop()
        farm.db.close()
        farm.settings.remove_fallback_folders()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Two CPU workers."""
    home = tmp_path_factory.mktemp("farm")
    options = {"pipeline": "tests.cluster.fake_model:Pipeline", "pool": "film", "tags": "night, a100"}
    with started(make_farm(home, workers=2, **options), 2) as farm:
        yield farm
