"""The way of a job through the database, from submission to its video."""

from farm.db import events, jobs, lanes, leases, progress, workers
from farm.db.engine import check_schema
from farm.domain.job import Progress
from farm.domain.states import JobState, Order, Outcome, StageName
from farm.domain.worker import Beat
from tests.db.conftest import LANE, register, submit_one, video


def test_a_job_becomes_a_video_and_every_step_is_told(db, clock):
    check_schema(db)
    register(db)
    job = submit_one(db, "一只红色的风筝")
    assert (job.state, job.epoch, job.lane) == (JobState.QUEUED, 0, LANE)

    given = leases.claim(db, "w1", LANE)
    assert given is not None
    assert (given.job, given.epoch, given.spec) == (job.id, 1, job.spec)
    assert jobs.get(db, job.id).state is JobState.LEASED

    clock.forward(2)
    assert leases.start(db, job.id, 1)
    at = Progress(StageName.DENOISE, 3, 16, preview_step=2, worker="w1")
    beat = Beat("w1", job.id, 1, at, ("d1",), "busy", 10**9, 0)
    workers.beat(db, [beat])
    assert leases.renew(db, [beat]) == {(job.id, 1): Order.CONTINUE}
    assert jobs.get(db, job.id).progress == at
    assert progress.progress(db) == {job.id: at}

    clock.forward(10)
    assert leases.finish(db, job.id, 1, video(job.id, 1), {"denoise": 9.5}, 2**30)
    done = jobs.get(db, job.id)
    assert done.state is JobState.SUCCEEDED
    assert done.artifact == video(job.id, 1)
    assert done.finished_at == clock()
    assert done.progress is None
    (attempt,) = jobs.attempts(db, job.id)
    assert (attempt.worker, attempt.gpu, attempt.outcome) == ("w1", "gpu-w1", Outcome.SUCCEEDED)
    assert (attempt.timings, attempt.peak_memory, attempt.cause) == ({"denoise": 9.5}, 2**30, None)
    assert [lane.virtual_time for lane in lanes.lanes(db)] == [10.0]

    told, reset = events.read(db, 0)
    assert not reset
    of_job = [e.data for e in told if e.kind == "job" and e.subject == job.id]
    assert [(d["state"], d["epoch"], d["worker"]) for d in of_job] == [
        ("queued", 0, None),
        ("leased", 1, "w1"),
        ("running", 1, "w1"),
        ("succeeded", 1, "w1"),
    ]
    assert of_job[0]["prompt"] == "一只红色的风筝"
    assert events.latest(db) == told[-1].id
    assert jobs.counts(db)[JobState.SUCCEEDED] == 1
