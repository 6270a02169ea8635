"""Who is to blame when a claim is lost: a worker that died alone. A node that vanished blames nobody."""

from datetime import timedelta

import pytest

from farm.db import jobs, leases, nodes
from farm.domain.job import JobError
from farm.domain.states import JobState, Outcome
from tests.db.conftest import LANE, register, submit_one

NAN = JobError("nan", "the frames are not numbers")


def taken(db, job_id, worker, node="n1"):
    """The job is being rendered by a worker of that boot id."""
    register(db, worker, node)
    given = leases.claim(db, worker, LANE)
    assert given is not None
    assert given.job == job_id
    assert leases.start(db, job_id, given.epoch)
    return given.epoch


def falls_silent(db, clock, agent_lives: bool) -> None:
    for _ in range(7):
        clock.forward(5)
        if agent_lives:
            nodes.beat(db, "n1", "boot")


def test_a_worker_that_fell_silent_while_its_agent_beat_on_is_blamed(db, clock):
    job_id = submit_one(db).id
    nodes.beat(db, "n1", "boot")
    taken(db, job_id, "w1")
    falls_silent(db, clock, agent_lives=True)
    assert leases.reap(db) == [(job_id, 1, JobState.QUEUED)]
    assert jobs.get(db, job_id).failures == 1
    assert jobs.attempts(db, job_id)[0].blamed


def test_a_node_that_vanished_blames_nobody(db, clock):
    """Its agent was last heard in the round that renewed the lease."""
    job_id = submit_one(db).id
    taken(db, job_id, "w1")
    nodes.beat(db, "n1", "boot")
    falls_silent(db, clock, agent_lives=False)
    nodes.beat(db, "n2", "another")
    assert leases.reap(db) == [(job_id, 1, JobState.QUEUED)]
    assert (jobs.get(db, job_id).failures, jobs.attempts(db, job_id)[0].blamed) == (0, False)


def test_an_agent_that_lived_a_little_longer_than_the_renewal_is_no_proof(db, clock):
    job_id = submit_one(db).id
    taken(db, job_id, "w1")
    clock.forward(6)
    nodes.beat(db, "n1", "boot")
    clock.forward(25)
    leases.reap(db)
    assert jobs.get(db, job_id).failures == 0


def test_a_node_that_no_agent_ever_spoke_for_blames_nobody(db, clock):
    job_id = submit_one(db).id
    taken(db, job_id, "w1")
    clock.forward(31)
    leases.reap(db)
    assert jobs.get(db, job_id).failures == 0


def test_a_certain_death_on_a_living_node_is_blamed_and_one_of_the_whole_node_is_not(db):
    job_id = submit_one(db).id
    taken(db, job_id, "w1")
    assert leases.lost(db, job_id, 1, "killed by signal 9") is JobState.QUEUED
    assert jobs.get(db, job_id).failures == 1
    taken(db, job_id, "w2")
    assert leases.lost(db, job_id, 2, "its node is gone", agent_lived=False) is JobState.QUEUED
    assert jobs.get(db, job_id).failures == 1


def test_three_different_workers_make_a_job_poison(db):
    job_id = submit_one(db).id
    for epoch, state in ((1, JobState.QUEUED), (2, JobState.QUEUED), (3, JobState.FAILED)):
        taken(db, job_id, f"boot{epoch}")
        assert leases.lost(db, job_id, epoch, "killed by signal 11") is state
    job = jobs.get(db, job_id)
    assert job.error is not None
    assert job.error.code == "poison"
    assert "3 workers failed" in job.error.message
    assert job.error.next
    assert leases.claim(db, "boot3", LANE) is None


def test_one_worker_that_fails_three_times_is_one_witness_and_the_job_rests(db, clock):
    job_id = submit_one(db).id
    epoch = 0
    for _ in range(6):
        clock.forward(700)
        epoch = taken(db, job_id, "w1")
        assert leases.fail(db, job_id, epoch, Outcome.DEVICE_FAULT, NAN) is JobState.QUEUED
    assert jobs.get(db, job_id).failures == 1
    assert leases.claim(db, "w1", LANE) is None, "no hot loop on the only worker"
    taken_by_another = register(db, "w2")
    clock.forward(700)
    assert leases.claim(db, taken_by_another, LANE) is not None


def test_what_is_lost_without_blame_is_tried_for_ever_but_ever_more_seldom(db, clock):
    register(db)
    job_id = submit_one(db).id
    pauses = []
    for epoch in range(1, 7):
        waited = 0
        while (given := leases.claim(db, "w1", LANE)) is None:
            clock.forward(1)
            waited += 1
        pauses.append(waited)
        assert given.epoch == epoch
        assert leases.start(db, job_id, epoch)
        assert leases.lost(db, job_id, epoch, "its node is gone", agent_lived=False) is JobState.QUEUED
    assert pauses == [0, 0, 0, 5, 10, 20]
    job = jobs.get(db, job_id)
    assert (job.failures, job.rest_until) == (0, clock() + timedelta(seconds=40))


@pytest.mark.parametrize("person", ["retry", "release"])
def test_people_need_not_wait_for_the_end_of_a_rest_and_a_retry_pardons(db, person):
    register(db)
    job_id = submit_one(db).id
    for epoch in (1, 2, 3):
        assert leases.claim(db, "w1", LANE)
        leases.lost(db, job_id, epoch, "its node is gone", agent_lived=False)
    assert leases.claim(db, "w1", LANE) is None
    if person == "retry":
        jobs.cancel(db, job_id)
        jobs.retry(db, job_id)
    else:
        jobs.hold(db, job_id)
        jobs.release(db, job_id)
    assert leases.claim(db, "w1", LANE) is not None


def test_after_a_retry_old_blame_counts_no_more(db):
    job_id = submit_one(db).id
    for epoch in (1, 2, 3):
        taken(db, job_id, f"boot{epoch}")
        leases.lost(db, job_id, epoch, "killed by signal 11")
    assert jobs.retry(db, job_id).failures == 0
    taken(db, job_id, "boot3")
    assert leases.lost(db, job_id, 4, "killed by signal 11") is JobState.QUEUED
    assert jobs.get(db, job_id).failures == 1, "the same worker is a new witness of the new try"
