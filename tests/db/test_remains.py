"""What the collector is told: only what is dead for certain, and nothing of what this database has never seen."""

from dataclasses import replace

import pytest

from farm.db import jobs, leases
from farm.db.remains import Remains
from farm.domain.job import JobError
from farm.domain.remains import Death
from farm.domain.states import Outcome
from tests.db.conftest import LANE, new_job, register, submit_one, video

DAY = 86_400.0
FAULT = JobError("lost", "gone")


@pytest.fixture
def remains(db):
    return Remains(db, hidden_for=7 * DAY, ended_for=DAY)


@pytest.fixture
def job(db):
    register(db)
    return submit_one(db).id


def claimed(db, job):
    found = leases.claim(db, "w1", LANE)
    assert found is not None
    assert found.job == job
    assert leases.start(db, job, found.epoch)
    return found.epoch


def death(remains, job, *epochs):
    told = remains.dead([(job, epoch) for epoch in epochs])
    return [told.get((job, epoch), "unknown") for epoch in epochs]


def test_a_live_claim_and_one_that_may_still_deliver_are_spared(db, clock, remains, job):
    epoch = claimed(db, job)
    assert death(remains, job, epoch) == [None]
    leases.give_back(db, job, epoch, Outcome.DRAIN, "the node goes down")
    clock.forward(30 * DAY)  # in the queue at its epoch: whoever was given up may still bring the video
    assert death(remains, job, epoch) == [None]


def test_a_claim_is_dead_from_the_next_one_on(db, remains, job):
    leases.give_back(db, job, claimed(db, job), Outcome.DRAIN, "the node goes down")
    assert claimed(db, job) == 2
    assert death(remains, job, 1, 2) == [Death.LOSER, None]


def test_of_a_winner_only_the_previews_go_and_not_at_once(db, clock, remains, job):
    leases.give_back(db, job, claimed(db, job), Outcome.DRAIN, "the node goes down")
    assert leases.finish(db, job, claimed(db, job), video(job, 2), {})
    assert death(remains, job, 1, 2) == [Death.LOSER, None]
    clock.forward(DAY + 1)
    assert death(remains, job, 1, 2) == [Death.LOSER, Death.PREVIEWS]


def test_a_failed_jobs_last_claim_stays_as_long_as_its_video_could_be_offered(db, clock, remains, job):
    leases.fail(db, job, claimed(db, job), Outcome.USER_ERROR, FAULT)
    assert death(remains, job, 1) == [None]
    clock.forward(DAY + 1)
    assert death(remains, job, 1) == [Death.LOSER]
    jobs.retry(db, job)
    assert not leases.finish(db, job, 1, video(job, 1), {}), "what was taken away can not be delivered any more"


def test_a_deleted_jobs_video_goes_after_its_time(db, clock, remains, job):
    assert leases.finish(db, job, claimed(db, job), video(job, 1), {})
    jobs.hide(db, job)
    clock.forward(6 * DAY)
    assert death(remains, job, 1) == [Death.PREVIEWS]
    clock.forward(DAY + 1)
    assert death(remains, job, 1) == [Death.HIDDEN]


def test_a_job_that_is_deleted_while_it_runs_is_not_swept_under_its_worker(db, clock, remains, job):
    epoch = claimed(db, job)
    jobs.cancel(db, job)
    jobs.hide(db, job)
    clock.forward(30 * DAY)
    assert death(remains, job, epoch) == [None]
    assert leases.cancelled(db, job, epoch)
    assert death(remains, job, epoch) == [Death.HIDDEN]


def test_what_this_database_has_never_seen_is_no_business_of_its_own(db, clock, remains, job):
    clock.forward(365 * DAY)
    assert death(remains, "job_ofanotherone", 1) == ["unknown"]
    assert death(remains, job, 1) == ["unknown"], "a copy of yesterday does not know today's claims"


def test_an_image_is_named_until_the_last_job_with_it_has_been_deleted_for_long(db, clock, remains):
    red, blue = "ab" * 32, "cd" * 32
    wish = new_job('say "image":"' + blue)
    kept = jobs.submit(db, [replace(wish, spec=replace(wish.spec, image=red))])[0].job.id
    assert remains.unnamed({red, blue}) == {blue}
    jobs.cancel(db, kept)
    jobs.hide(db, kept)
    clock.forward(6 * DAY)
    assert remains.unnamed({red, blue}) == {blue}
    clock.forward(DAY + 1)
    assert remains.unnamed({red, blue}) == {red, blue}
