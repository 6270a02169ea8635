"""Promises of the machines' side, kept by real processes: Ray actors, agent, dispatcher, one database."""

import hashlib
import json
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest

from farm.cluster.processes import started
from farm.db import jobs, nodes, workers
from farm.domain.job import Attempt
from farm.domain.states import JobState, Outcome, Wish
from farm.media.check import decode, read_metadata
from farm.storage.store import open_store
from tests.cluster.conftest import Farm, until


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture(autouse=True)
def _both_workers_idle(farm: Farm) -> None:
    farm.wait_idle(2)


def test_workers_say_what_jobs_may_require_of_them(farm: Farm):
    for worker in workers.find(farm.db, gone_within=0.0):
        assert (worker.tags, worker.pool, worker.gpus) == (("a100", "night"), "film", 1)
        assert (worker.memory_total or 0) > 0


def test_a_job_becomes_a_whole_video(farm: Farm, tmp_path: Path):
    job = farm.wait_final(farm.submit("a square, 一个方块"))
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.artifact is not None
    path = tmp_path / "video.mp4"
    store = open_store(farm.settings.store)
    path.write_bytes(b"".join(store.open(job.artifact.key)))
    assert decode(path).shape == (17, 96, 96, 3)
    assert read_metadata(path)["title"] == "a square, 一个方块"
    assert b"".join(store.open(job.artifact.poster_key))[:2] == b"\xff\xd8"
    assert store.size(f"videos/{job.id}/1/preview-8.jpg")
    (attempt,) = jobs.attempts(farm.db, job.id)
    assert attempt.outcome is Outcome.SUCCEEDED
    assert set(attempt.timings) == {"loading", "text", "denoise", "decode", "encode", "upload"}
    assert attempt.peak_memory
    assert not list(farm.settings.scratch_dir.rglob("*.mp4"))


def test_a_killed_worker_costs_an_attempt_and_not_the_job(farm: Farm, gate: Path):
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    (first,) = jobs.attempts(farm.db, job)
    victim = next(w for w in farm.workers() if w.id == first.worker)
    os.kill(victim.pid, signal.SIGKILL)
    until("the job is claimed again", lambda: farm.job(job).epoch == 2)
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.epoch, ended.failures) == (JobState.SUCCEEDED, 2, 1)
    lost, won = sorted(jobs.attempts(farm.db, job), key=lambda a: a.epoch)
    assert lost.outcome is Outcome.LOST
    assert str(victim.pid) in (lost.cause or "")
    assert won.outcome is Outcome.SUCCEEDED
    # The slot is manned again, by another process.
    assert victim.id not in {w.id for w in farm.wait_idle(2)}


def test_what_a_worker_has_started_dies_with_it(farm: Farm, gate: Path, tmp_path: Path):
    note = tmp_path / "children"
    job = farm.submit(f"children={note} gate={gate}")
    children: list[int] = until("it has children", lambda: note.exists() and json.loads(note.read_text()))
    (first,) = jobs.attempts(farm.db, job)
    victim = next(w for w in farm.workers() if w.id == first.worker)
    os.kill(victim.pid, signal.SIGKILL)
    until("they are gone", lambda: not any(started(pid) is not None for pid in children))
    gate.touch()
    assert farm.wait_final(job).state is JobState.SUCCEEDED
    # Its successor has found the one that had left the worker's process group.
    killed = [e for e in farm.events("worker") if e["event"] == "leftovers_killed" and e["of"] == victim.id]
    assert [e["pids"] for e in killed] == [children[1:]]


def test_cancel_reaches_the_worker_at_its_next_step(farm: Farm, gate: Path):
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    jobs.cancel(farm.db, job)  # without a poke: polling is the guarantee
    ended = farm.wait_final(job)
    assert ended.state is JobState.CANCELLED
    (attempt,) = jobs.attempts(farm.db, job)
    assert attempt.outcome is Outcome.CANCELLED
    assert "denoise" in attempt.timings
    assert "decode" not in attempt.timings


@pytest.mark.parametrize(
    ("prompt", "state", "outcome", "attempts", "code"),
    [
        ("this is too long", JobState.FAILED, Outcome.USER_ERROR, 1, "invalid_request"),
        ("corrupt", JobState.FAILED, Outcome.USER_ERROR, 1, "corrupt_weights"),
        ("oom", JobState.FAILED, Outcome.OUT_OF_MEMORY, 2, "out_of_memory"),  # with each memory plan
        ("bug", JobState.FAILED, Outcome.LOST, 3, "poison"),
        ("black", JobState.FAILED, Outcome.DEVICE_FAULT, 3, "poison"),
        ("fault", JobState.FAILED, Outcome.DEVICE_FAULT, 3, "poison"),
    ],
)
def test_a_failure_is_of_its_class(
    farm: Farm, prompt: str, state: JobState, outcome: Outcome, attempts: int, code: str
):
    job = farm.wait_final(farm.submit(prompt))
    assert (job.state, job.error and job.error.code) == (state, code)
    assert [a.outcome for a in jobs.attempts(farm.db, job.id)] == [outcome] * attempts
    # The worker says what became of the job before it cleans up.
    until("its file is gone", lambda: not list(farm.settings.scratch_dir.rglob("*.mp4")))


def test_a_worker_renews_itself_while_the_agent_is_gone(farm: Farm, gate: Path):
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    farm.kill("agent")
    try:
        until(
            "the worker renews directly", lambda: [
                e for e in farm.events("worker") if e["event"] == "renewed_directly" and e["job"] == job
            ],
        )  # fmt: skip
        # Longer than a lease lives: had nobody renewed it, the reaper would have it.
        _outlive_a_lease(farm)
        jobs.cancel(farm.db, job)  # orders come the same way
        assert farm.wait_final(job).state is JobState.CANCELLED
        assert farm.job(job).epoch == 1
    finally:
        farm.start_agent()


def test_a_frozen_worker_loses_its_job_and_can_change_nothing(farm: Farm, gate: Path):
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    (first,) = jobs.attempts(farm.db, job)
    victim = next(w for w in farm.workers() if w.id == first.worker)
    os.kill(victim.pid, signal.SIGSTOP)
    until("the job is claimed elsewhere", lambda: farm.job(job).epoch == 2)
    os.kill(victim.pid, signal.SIGCONT)
    until("the stale worker stops", lambda: _ended(farm, job, 1))
    assert farm.job(job).state in (JobState.LEASED, JobState.RUNNING)
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 2)
    lost, won = sorted(jobs.attempts(farm.db, job), key=lambda a: a.epoch)
    assert (lost.outcome, won.outcome) == (Outcome.LOST, Outcome.SUCCEEDED)
    assert won.worker != lost.worker
    # Its lease ran out: nobody had renewed it for a worker that was silent.
    assert "stopped answering" in (lost.cause or "")


def test_a_dispatcher_that_dies_disturbs_no_job(farm: Farm, gate: Path):
    before = {w.id for w in farm.workers()}
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    farm.kill("dispatcher")
    farm.start_dispatcher()
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 1)
    # The new one knows the same workers, and gives them work.
    assert farm.wait_final(farm.submit("another")).state is JobState.SUCCEEDED
    assert {w.id for w in farm.wait_idle(2)} == before


def test_a_worker_whose_disk_fails_leaves_the_job_to_others(farm: Farm, gate: Path):
    held = farm.submit(f"gate={gate}")
    farm.wait_step(held)
    (busy,) = jobs.attempts(farm.db, held)
    failing = next(w for w in farm.workers() if w.id != busy.worker)
    scratch = farm.settings.scratch_dir / f"worker-{failing.gpu.removeprefix('cpu:').replace(':', '-')}"
    scratch.rename(scratch.with_name("aside"))
    scratch.touch()
    try:
        job = farm.submit("a square")
        until("it waits", lambda: [e for e in farm.events("worker") if (e["event"], e["job"]) == ("sits_out", job)])
        assert farm.job(job).state is JobState.QUEUED
        gate.touch()
        ended = farm.wait_final(job)
    finally:
        scratch.unlink()
        scratch.with_name("aside").rename(scratch)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0)
    assert jobs.attempts(farm.db, job)[0].outcome is Outcome.DEPENDENCY


def test_a_worker_that_thaws_with_a_finished_video_changes_nothing(farm: Farm, gate: Path):
    """Stopped past its lease, its job finished elsewhere, and only then it commits and uploads."""
    job = farm.submit(f"late={gate}")
    until("it has rendered", lambda: (at := farm.job(job).progress) and at.stage == "decode")
    (first,) = jobs.attempts(farm.db, job)
    victim = next(w for w in farm.workers() if w.id == first.worker)
    os.kill(victim.pid, signal.SIGSTOP)
    # A dispatcher that has heard of it would end it for its silence; a new one takes it for one that starts.
    farm.kill("dispatcher")
    farm.start_dispatcher()
    until("the job is claimed elsewhere", lambda: farm.job(job).epoch == 2)
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 2)
    os.kill(victim.pid, signal.SIGCONT)
    late = until("it says that it is too late", lambda: [
        e for e in farm.events("worker") if e["event"] == "finished_too_late" and (e["job"], e["epoch"]) == (job, 1)
    ])  # fmt: skip
    assert late[0]["discarded"] == f"videos/{job}/1/video.mp4"
    after = farm.job(job)
    assert after == ended
    assert after.artifact is not None
    store = open_store(farm.settings.store)
    assert after.artifact.key == f"videos/{job}/2/video.mp4"
    assert hashlib.sha256(b"".join(store.open(after.artifact.key))).hexdigest() == after.artifact.sha256
    # Its own upload went where nobody looks, until it is collected.
    assert store.size(f"videos/{job}/1/video.mp4")
    assert [a.outcome for a in _attempts(farm, job)] == [Outcome.LOST, Outcome.SUCCEEDED]


def test_a_wish_to_restart_lets_the_job_in_hand_finish_and_renews_the_worker(farm: Farm, gate: Path):
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    (only,) = jobs.attempts(farm.db, job)
    workers.wish(farm.db, only.worker, Wish.RESTART)
    _outlive_a_round(farm)
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 1)
    until("its worker is another process", lambda: only.worker not in {w.id for w in farm.workers()})


def test_a_wish_to_restart_now_gives_the_job_back_and_renews_the_worker(farm: Farm, gate: Path):
    before = {w.id for w in farm.workers()}
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    (first,) = jobs.attempts(farm.db, job)
    workers.wish(farm.db, first.worker, Wish.RESTART, now=True)
    until("the job is claimed elsewhere", lambda: farm.job(job).epoch == 2)
    until("its worker is another process", lambda: first.worker not in {w.id for w in farm.workers()})
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0)
    assert _attempts(farm, job)[0].outcome is Outcome.DRAIN
    assert len(before & {w.id for w in farm.wait_idle(2)}) == 1


def test_a_drained_node_finishes_what_it_has_and_takes_nothing_more(farm: Farm, gate: Path):
    in_hand = [farm.submit(f"gate={gate}") for _ in range(2)]
    for job in in_hand:
        farm.wait_step(job)
    node = farm.workers()[0].node
    nodes.wish(farm.db, node, Wish.DRAIN, by="ann", reason="a new power supply")
    waiting = farm.submit("a square")
    gate.touch()
    for job in in_hand:
        ended = farm.wait_final(job)
        assert (ended.state, ended.epoch) == (JobState.SUCCEEDED, 1)
    farm.wait_idle(2)
    assert farm.job(waiting).state is JobState.QUEUED
    nodes.wish(farm.db, node, Wish.RUN, by="ann")
    assert farm.wait_final(waiting).state is JobState.SUCCEEDED


def test_sigterm_gives_the_job_back_without_blame(farm: Farm, gate: Path):
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    (first,) = jobs.attempts(farm.db, job)
    os.kill(next(w.pid for w in farm.workers() if w.id == first.worker), signal.SIGTERM)
    until("the job is claimed again", lambda: farm.job(job).epoch == 2)
    gate.touch()
    ended = farm.wait_final(job)
    assert (ended.state, ended.failures) == (JobState.SUCCEEDED, 0)
    assert min(jobs.attempts(farm.db, job), key=lambda a: a.epoch).outcome is Outcome.DRAIN


def _attempts(farm: Farm, job: str) -> list[Attempt]:
    return sorted(jobs.attempts(farm.db, job), key=lambda attempt: attempt.epoch)


def _outlive_a_round(farm: Farm) -> None:
    """Until the agent has renewed twice more: whatever was wished has been heard of by then."""

    def beaten() -> datetime:
        return max(worker.heartbeat_at for worker in farm.workers())

    for _ in range(2):
        before = beaten()
        until("the agent renews", lambda before=before: beaten() > before)


def _ended(farm: Farm, job: str, epoch: int) -> bool:
    return any(e["event"] == "job_ended" and (e["job"], e["epoch"]) == (job, epoch) for e in farm.events("worker"))


def _outlive_a_lease(farm: Farm) -> None:
    """Until as many direct renewals were made as no single lease could bridge."""

    def needed() -> int:
        return sum(e["event"] == "renewed_directly" for e in farm.events("worker"))

    start = needed()
    renewals = int(farm.settings.lease_ttl / farm.settings.renew_every) + 2
    until("renewals go on", lambda: needed() >= start + renewals)
