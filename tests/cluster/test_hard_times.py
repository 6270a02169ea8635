"""Workers that hang, leak, or sit on a bad card: each ends itself, and what comes after it is well.

A farm whose limits are short; the tests below run in their order.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.cluster.processes import started
from farm.db import jobs, quarantines
from farm.domain.states import JobState, Outcome
from tests.cluster.conftest import Farm, make_farm, until
from tests.cluster.conftest import started as started_farm


@pytest.fixture(scope="module")
def broken_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every probe fails while this file exists."""
    return tmp_path_factory.mktemp("card") / "broken"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, broken_card: Path) -> Iterator[Farm]:
    home = tmp_path_factory.mktemp("farm")
    made = make_farm(
        home, workers=2, pipeline="tests.cluster.fake_model:Pipeline", stall_floor=5.0, stall_unknown=5.0,
        quarantine_after=2, quarantine_seconds=1.0,
    )  # fmt: skip
    made.environment["FAKE_BROKEN_CARD"] = str(broken_card)
    with started_farm(made, 2) as farm:
        yield farm


@pytest.fixture(autouse=True)
def _both_workers_idle(farm: Farm) -> None:
    farm.wait_idle(2)


def test_a_worker_whose_memory_drifts_makes_room_between_two_jobs(farm: Farm, tmp_path: Path):
    """How much is too much is told by what each of them held after its first job."""
    gate = tmp_path / "gate"
    first = [farm.submit(f"gate={gate}") for _ in range(2)]
    for job in first:
        farm.wait_step(job)
    gate.touch()
    for job in first:
        farm.wait_final(job)
    before = {w.id for w in farm.wait_idle(2)}
    ended = farm.wait_final(farm.submit("leak=400"))
    assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 1)
    worn = until("it says so", lambda: [e for e in farm.events("worker") if e["event"] == "worker_worn"])
    assert worn[0]["why"] == "memory"
    assert worn[0]["now"]["resident"] - worn[0]["baseline"]["resident"] > 256 << 20
    until("another has come", lambda: worn[0]["worker"] not in {w.id for w in farm.workers()})
    assert {w.id for w in farm.wait_idle(2)} & before == before - {worn[0]["worker"]}
    # Nobody takes that for a death.
    ends = [e for e in farm.events("dispatcher") if e.get("worker") == worn[0]["worker"]]
    assert "worker_died" not in {e["event"] for e in ends}


def test_a_stage_that_hangs_costs_the_process_and_not_the_job(farm: Farm, tmp_path: Path):
    gate = tmp_path / "gate"
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    (first,) = jobs.attempts(farm.db, job)
    victim = next(w for w in farm.workers() if w.id == first.worker)
    until("the job is claimed again", lambda: farm.job(job).epoch == 2)
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 1)
    lost = min(jobs.attempts(farm.db, job), key=lambda attempt: attempt.epoch)
    assert (lost.outcome, lost.blamed) == (Outcome.LOST, True)
    assert (lost.cause or "").startswith("no progress for ")
    assert (lost.cause or "").endswith(" in denoise, step 2 of 8; 5 s are long enough")
    until("its process is gone", lambda: started(victim.pid) is None)
    assert [e["job"] for e in farm.events("worker") if e["event"] == "stage_hangs"] == [job]


def test_a_card_that_faults_is_set_aside_and_comes_back_through_a_probe(farm: Farm, broken_card: Path):
    broken_card.touch()
    assert farm.wait_final(farm.submit("fault")).state is JobState.FAILED
    assert not quarantines.find(farm.db), "one job's fault is its own"
    farm.wait_idle(2)
    second = farm.submit("fault")
    until("both cards are set aside", lambda: len(quarantines.find(farm.db)) == 2)
    jobs.cancel(farm.db, second)
    waiting = farm.submit("a square")
    until("both were probed in vain", lambda: all(q.probes for q in quarantines.find(farm.db)))
    assert "uncorrectable ECC error" in (quarantines.find(farm.db)[0].last_probe or "")
    assert farm.job(waiting).state is JobState.QUEUED
    broken_card.unlink()
    assert farm.wait_final(waiting).state is JobState.SUCCEEDED
    until("both are back", lambda: not quarantines.find(farm.db))
