"""Database or storage gone for longer than a lease, under load: nothing is lost, nothing finished is made anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.db import jobs
from farm.domain.errors import DatabaseUnavailable
from farm.domain.states import JobState, Outcome
from farm.storage.store import open_store
from tests.cluster.conftest import Farm, make_farm, started, until
from tests.private_servers import Server, private_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with private_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, postgres: Server) -> Iterator[Farm]:
    home = tmp_path_factory.mktemp("farm")
    pipeline = "tests.cluster.fake_model:Pipeline"
    with started(make_farm(home, workers=2, pipeline=pipeline, database_url=postgres.server.url), 2) as farm:
        yield farm


@pytest.fixture(autouse=True)
def _both_workers_idle(farm: Farm) -> None:
    farm.wait_idle(2)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def test_a_store_that_is_gone_for_longer_than_a_lease_costs_nothing(farm: Farm, gate: Path):
    held = [farm.submit(f"gate={gate}") for _ in range(2)]
    behind = [farm.submit(f"a square, number {n}") for n in range(4)]
    for job in held:
        farm.wait_step(job)
    store, aside = Path(farm.settings.store), Path(farm.settings.store).with_name("aside")
    store.rename(aside)
    store.touch()  # a folder would be made again
    try:
        gate.touch()
        until("both wait with a finished video", lambda: all(_tries(farm, job, "storage") for job in held))
        _outlive_a_lease(farm)
        for job in held:
            at = farm.job(job).progress
            assert at is not None
            assert (at.stage, at.n) == ("upload", 0)
            assert at.k >= 1, "people see that it is tried again"
    finally:
        store.unlink()
        aside.rename(store)
    for job in held + behind:
        ended = farm.wait_final(job)
        assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 1)
        assert ended.artifact is not None
        assert open_store(farm.settings.store).size(ended.artifact.key) == ended.artifact.bytes


def test_a_database_that_is_gone_for_longer_than_a_lease_costs_no_finished_video(
    farm: Farm, postgres: Server, gate: Path, tmp_path: Path
):
    finished, unfinished = farm.submit(f"gate={gate}"), farm.submit(f"gate={tmp_path / 'other'}")
    behind = [farm.submit(f"a square, number {n}") for n in range(4)]
    for job in (finished, unfinished):
        farm.wait_step(job)
    postgres.kill()
    gate.touch()
    until("one waits with a finished video", lambda: _tries(farm, finished, "database"))
    # The other one's lease may be over by its own clock, so it stops: somebody else may have the job.
    until("the other one has stopped", lambda: _said(farm, unfinished, "job_stopped"))
    until("it waits, too", lambda: _tries(farm, unfinished, "database"))
    (tmp_path / "other").touch()
    postgres.start()
    for job in (finished, unfinished, *behind):
        assert until(f"{job} ends", lambda job=job: _final(farm, job)) is JobState.SUCCEEDED
    assert [a.outcome for a in jobs.attempts(farm.db, finished)] == [Outcome.SUCCEEDED], "rendered once"
    attempts = sorted(jobs.attempts(farm.db, unfinished), key=lambda a: a.epoch)
    assert [(a.outcome, a.blamed) for a in attempts] == [(Outcome.DEPENDENCY, False), (Outcome.SUCCEEDED, False)]
    assert attempts[0].cause == "its lease could not be renewed"
    for job in behind:
        assert farm.job(job).failures == 0


def _tries(farm: Farm, job: str, missing: str) -> list[dict[str, Any]]:
    return [event for event in _said(farm, job, "dependency_away") if event["waiting_for"] == missing]


def _said(farm: Farm, job: str, what: str) -> list[dict[str, Any]]:
    return [event for event in farm.events("worker") if (event["event"], event["job"]) == (what, job)]


def _final(farm: Farm, job: str) -> JobState | None:
    try:
        state = farm.job(job).state
    except DatabaseUnavailable:  # it has just come back
        return None
    return state if state.final else None


def _outlive_a_lease(farm: Farm) -> None:
    """Every lease that is there now has to be renewed twice over."""
    with_leases = {w.id: w.heartbeat_at for w in farm.workers()}
    ttl = farm.settings.lease_ttl
    until("a lease's time passes", lambda: all(
        (w.heartbeat_at - with_leases[w.id]).total_seconds() > 1.5 * ttl for w in farm.workers()
    ))  # fmt: skip
