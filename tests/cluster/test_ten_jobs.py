"""Ten jobs in a row through real processes and our own model: loaded once, and no heavier at the end."""

from pathlib import Path

from farm.db import submission
from farm.domain.job import JobSpec, NewJob
from farm.domain.states import JobState
from farm.domain.worker import Worker
from model.library import Library
from model.wan.config import preset
from tests.cluster.conftest import Farm, make_farm, started, until

DEMO = preset("demo-t2v")


def render(farm: Farm, seed: int) -> JobState:
    spec = JobSpec(
        kind="t2v", model=DEMO.name, model_digest=Library().digest(DEMO), prompt="a red circle moves left",
        width=96, height=96, frames=17, fps=12, steps=2, seed=seed, guidance=3.0,
    )  # fmt: skip
    return farm.wait_final(submission.submit(farm.db, [NewJob(spec)])[0].job.id).state


def after(farm: Farm, jobs: int) -> Worker:
    """What the worker says of itself once it has done so many jobs."""

    def resting() -> Worker | None:
        (worker,) = farm.workers()
        return worker if (worker.state, worker.jobs_done) == ("idle", jobs) else None

    return until(f"the worker rests after job {jobs}", resting)


def test_ten_jobs_load_the_model_once_and_leave_the_memory_as_it_was(tmp_path: Path):
    with started(make_farm(tmp_path, workers=1), 1) as farm:
        said: list[Worker] = []
        for n in range(10):
            assert render(farm, n) is JobState.SUCCEEDED
            said.append(after(farm, n + 1))
        memory = [worker.memory or 0 for worker in said]
        assert max(memory) <= 1.01 * min(memory), memory
        assert len({worker.pid for worker in said}) == 1
        assert sum(event["event"] == "model_loaded" for event in farm.events("worker")) == 1
