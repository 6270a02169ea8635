"""What a job requires is asked where it is claimed: unknown is not there, and a job waits, it never fails."""

from datetime import timedelta

import pytest

from farm.db import jobs, lanes, leases, workers
from farm.domain.job import Requires
from farm.domain.states import JobState
from farm.domain.worker import NewWorker
from tests.db.conftest import LANE, register, submit_one

GIB = 2**30


def machine(db, **has):
    workers.register(db, NewWorker("w1", "n1", "gpu-w1", "Test GPU", 1, **has))


@pytest.mark.parametrize(
    ("requires", "has", "given"),
    [
        (Requires(), {}, True),
        (Requires(tags=("a100",)), {"tags": ("a100", "night")}, True),
        (Requires(tags=("a100", "night")), {"tags": ("a100",)}, False),
        (Requires(tags=("a100",)), {}, False),
        (Requires(pool="film"), {"pool": "film"}, True),
        (Requires(pool="film"), {"pool": "ads"}, False),
        (Requires(pool="film"), {}, False),
        (Requires(memory=40 * GIB), {"memory_total": 40 * GIB}, True),
        (Requires(memory=40 * GIB), {"memory_total": 40 * GIB - 1}, False),
        (Requires(memory=40 * GIB), {}, False),
        (Requires(gpus=2), {"gpus": 2}, True),
        (Requires(gpus=2), {}, False),
        (None, {"tags": ("a100",), "pool": "film"}, True),
    ],
)
def test_a_worker_gets_what_it_meets(db, requires, has, given):
    machine(db, **has)
    job = submit_one(db, requires=requires)
    assert jobs.get(db, job.id).requires == requires
    assert [lane.waiting for lane in lanes.lanes(db, "w1")] == [int(given)]
    assert (leases.claim(db, "w1", LANE) is not None) is given
    assert jobs.get(db, job.id).state is (JobState.LEASED if given else JobState.QUEUED)


def test_a_job_that_nobody_meets_keeps_nobody_from_the_next_one(db):
    machine(db)
    for _ in range(20):
        submit_one(db, requires=Requires(pool="film"), priority=9)
    job = submit_one(db)
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    assert given.job == job.id


def test_a_lane_is_open_until_its_window_ends_and_what_runs_goes_on(db, clock):
    machine(db)
    job = submit_one(db)
    submit_one(db)
    assert lanes.open_lane(db, LANE, until=clock() + timedelta(seconds=10))
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    clock.forward(10)
    assert leases.claim(db, "w1", LANE) is None
    (view,) = lanes.lanes(db)
    assert (view.closed_reason, view.open_until) == ("its window is over", clock())
    assert leases.start(db, job.id, 1)
    lanes.open_lane(db, LANE)
    assert leases.claim(db, "w1", LANE) is not None


def running(db):
    job = submit_one(db)
    given = leases.claim(db, register(db), LANE)
    assert given is not None
    assert leases.start(db, job.id, given.epoch)
    return job.id


def test_an_expanded_prompt_is_written_once_and_the_next_claim_finds_it(db):
    job_id = running(db)
    assert leases.expand(db, job_id, 1, "a red kite, soaring")
    assert leases.expand(db, job_id, 1, "a red kite, soaring"), "told again"
    assert not leases.expand(db, job_id, 1, "something else")
    leases.lost(db, job_id, 1, "died")
    register(db, "w2")
    given = leases.claim(db, "w2", LANE)
    assert given is not None
    assert given.expanded_prompt == "a red kite, soaring"
    assert jobs.get(db, job_id).expanded_prompt == "a red kite, soaring"


def test_a_stale_claim_expands_nothing(db):
    job_id = running(db)
    leases.lost(db, job_id, 1, "died")
    assert not leases.expand(db, job_id, 1, "late")
    register(db, "w2")
    assert leases.claim(db, "w2", LANE) is not None
    assert not leases.expand(db, job_id, 2, "not started")
    leases.start(db, job_id, 2)
    assert not leases.expand(db, job_id, 1, "late")
    assert jobs.get(db, job_id).expanded_prompt is None


def test_a_worker_holds_three_leases_and_no_fourth(db):
    register(db)
    for _ in range(5):
        submit_one(db)
    given = [leases.claim(db, "w1", LANE) for _ in range(4)]
    assert [one is not None for one in given] == [True, True, True, False]
    assert given[2] is not None
    assert leases.recall(db, given[2].job, 1), "a prefetched one goes back"
    assert leases.claim(db, "w1", LANE) is not None
    assert leases.claim(db, "w1", LANE) is None
    register(db, "w2")
    assert leases.claim(db, "w2", LANE, capacity=1) is not None
    assert leases.claim(db, "w2", LANE, capacity=1) is None


def test_a_lease_that_ended_makes_room(db):
    register(db)
    first = submit_one(db)
    submit_one(db)
    assert leases.claim(db, "w1", LANE, capacity=1) is not None
    assert leases.claim(db, "w1", LANE, capacity=1) is None
    leases.lost(db, first.id, 1, "died")
    assert leases.claim(db, "w1", LANE, capacity=1) is not None
