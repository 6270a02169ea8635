"""A worker that lives but makes no progress is reported, judged by what others of its kind took."""

import pytest

from farm.db import jobs, leases
from farm.domain.job import Progress
from farm.domain.states import JobState, StageName
from farm.domain.worker import Beat
from farm.scheduling.stalls import StallLimits
from tests.db.conftest import LANE, new_job, register, submit_one, video

LIMITS = StallLimits(times=4, floor=10, loading=100, unknown=200)
TIMINGS = {"text": 1.0, "denoise": 160.0, "decode": 8.0, "upload": 1.0}  # of 16 steps


@pytest.fixture
def job_id(db):
    register(db)
    job = submit_one(db)
    assert leases.claim(db, "w1", LANE)
    assert leases.start(db, job.id, 1)
    return job.id


def history(db, count=5):
    """Videos alike that were made before."""
    register(db, "old")
    for one in jobs.submit(db, [new_job(f"old {n}", priority=5) for n in range(count)]):
        given = leases.claim(db, "old", LANE)
        leases.start(db, given.job, 1)
        leases.finish(db, given.job, 1, video(one.job.id, 1), TIMINGS)


def says(db, job_id, stage=None, k=0, n=0):
    at = None if stage is None else Progress(stage, k, n)
    leases.renew(db, [Beat("w1", job_id, 1, at, (), "busy", None, 0)])


def beats_on(db, clock, seconds, job_id, *said):
    """It lives, and says the same for so long."""
    for _ in range(seconds // 10):
        clock.forward(10)
        says(db, job_id, *said)
    clock.forward(seconds % 10)


def test_a_step_that_takes_far_longer_than_those_of_others_hangs(db, clock, job_id):
    history(db)
    says(db, job_id, StageName.DENOISE, 3, 16)
    beats_on(db, clock, 40, job_id, StageName.DENOISE, 3, 16)
    assert leases.stalled(db, LIMITS) == [], "10 s a step, four times that are allowed"
    clock.forward(1)
    (hung,) = leases.stalled(db, LIMITS)
    assert (hung.job, hung.epoch, hung.worker, hung.node, hung.gpu, hung.pid) == (
        job_id, 1, "w1", "n1", "gpu-w1", 4711,
    )  # fmt: skip
    assert (hung.stage, hung.k, hung.seconds, hung.allowed) == (StageName.DENOISE, 3, 41.0, 40.0)
    assert "denoise, step 3 of 16" in hung.cause
    assert jobs.get(db, job_id).state is JobState.RUNNING, "only reported"


def test_every_step_and_every_stage_is_progress(db, clock, job_id):
    history(db)
    for k in range(4):
        says(db, job_id, StageName.DENOISE, k, 16)
        beats_on(db, clock, 35, job_id, StageName.DENOISE, k, 16)
        assert leases.stalled(db, LIMITS) == []
    says(db, job_id, StageName.DECODE)
    beats_on(db, clock, 32, job_id, StageName.DECODE)
    assert leases.stalled(db, LIMITS) == []
    clock.forward(1)
    assert len(leases.stalled(db, LIMITS)) == 1


def test_a_beat_without_progress_is_none(db, clock, job_id):
    says(db, job_id, StageName.LOADING)
    beats_on(db, clock, 101, job_id)
    assert [one.stage for one in leases.stalled(db, LIMITS)] == [StageName.LOADING]


def test_whoever_could_not_tell_of_its_progress_does_not_hang(db, clock, job_id):
    """The database was away for longer than any stage may take; who waits for it may have a finished video."""
    says(db, job_id, StageName.DENOISE, 16, 16)
    clock.forward(1000)
    assert leases.stalled(db, LIMITS) == []
    says(db, job_id, StageName.UPLOAD)
    assert leases.stalled(db, LIMITS) == []


def test_what_was_never_done_before_gets_long(db, clock, job_id):
    history(db, count=4)
    says(db, job_id, StageName.DENOISE, 0, 16)
    beats_on(db, clock, 200, job_id, StageName.DENOISE, 0, 16)
    assert leases.stalled(db, LIMITS) == []
    clock.forward(1)
    assert len(leases.stalled(db, LIMITS)) == 1


def test_an_upload_may_wait_for_the_store_for_ever(db, clock, job_id):
    history(db)
    says(db, job_id, StageName.UPLOAD)
    clock.forward(10**6)
    says(db, job_id, StageName.UPLOAD)
    assert leases.stalled(db, LIMITS) == []


def test_a_prefetched_job_does_not_hang_and_its_time_begins_with_its_start(db, clock):
    register(db)
    job = submit_one(db)
    leases.claim(db, "w1", LANE)
    clock.forward(500)
    assert leases.stalled(db, LIMITS) == []
    leases.start(db, job.id, 1)
    beats_on(db, clock, 100, job.id)
    assert leases.stalled(db, LIMITS) == []
    clock.forward(1)
    assert len(leases.stalled(db, LIMITS)) == 1


def test_a_killed_one_is_blamed_and_requeued(db, clock, job_id):
    beats_on(db, clock, 1000, job_id)
    (hung,) = leases.stalled(db, LIMITS)
    assert leases.lost(db, hung.job, hung.epoch, hung.cause) is JobState.QUEUED
    assert jobs.get(db, job_id).failures == 1
    assert jobs.attempts(db, job_id)[0].cause == hung.cause


def test_a_worker_can_ask_for_its_deadlines(db, job_id):
    history(db)
    allowed = leases.deadlines(db, jobs.get(db, job_id).spec, LIMITS)
    assert allowed == {
        StageName.LOADING: 100, StageName.TEXT: 10, StageName.IMAGE: 200, StageName.DENOISE: 40,
        StageName.DECODE: 32, StageName.ENCODE: 200,
    }  # fmt: skip
