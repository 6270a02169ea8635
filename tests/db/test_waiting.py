"""Jobs that wait for jobs: queued when those ended as they had to, cancelled when they did not."""

from datetime import timedelta
from itertools import pairwise

import pytest

from farm.db import events, jobs, leases
from farm.domain.errors import InvalidRequest, StateConflict
from farm.domain.job import KEY_OF, Dependency, JobError
from farm.domain.states import After, JobState, Outcome
from tests.db.conftest import LANE, new_job, register, submit_one, video

OOPS = JobError("oops", "it broke")


@pytest.fixture
def first(db):
    register(db)
    return submit_one(db, "first").id


def after(*needs, mode=After.SUCCESS):
    return tuple(Dependency(one, mode) for one in needs)


def end(db, job_id, how="succeeded"):
    """It is claimed and ends so."""
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    assert given.job == job_id
    leases.start(db, job_id, given.epoch)
    if how == "succeeded":
        assert leases.finish(db, job_id, given.epoch, video(job_id, given.epoch), {})
    elif how == "failed":
        assert leases.fail(db, job_id, given.epoch, Outcome.USER_ERROR, OOPS)
    else:
        jobs.cancel(db, job_id)
        assert leases.cancelled(db, job_id, given.epoch)


def state(db, job_id):
    return jobs.get(db, job_id).state


def test_it_waits_until_the_other_has_succeeded(db, first):
    second = submit_one(db, "second", depends_on=after(first))
    assert second.state is JobState.SCHEDULED
    assert jobs.depends_on(db, second.id) == [Dependency(first, After.SUCCESS, JobState.QUEUED)]
    assert leases.due(db) == []
    end(db, first)
    assert leases.claim(db, "w1", LANE) is None, "not before it is due"
    assert leases.due(db) == [second.id]
    assert leases.due(db) == []
    end(db, second.id)


def test_it_waits_for_all_of_them_and_for_its_time(db, clock, first):
    other = submit_one(db, "other").id
    third = submit_one(db, "third", depends_on=after(first, other), not_before=clock() + timedelta(seconds=100)).id
    end(db, first)
    assert leases.due(db) == []
    end(db, other)
    assert leases.due(db) == []
    clock.forward(100)
    assert leases.due(db) == [third]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_what_waits_for_a_success_that_never_comes_is_cancelled_with_the_reason(db, first, how):
    second = submit_one(db, "second", depends_on=after(first)).id
    third = submit_one(db, "third", depends_on=after(second)).id
    any_end = submit_one(db, "any", depends_on=after(third, mode=After.ANY)).id
    end(db, first, how)
    assert leases.due(db) == [any_end], "the cancellation goes on to what waits for it, at once"
    job = jobs.get(db, second)
    assert job.state is JobState.CANCELLED
    assert job.error is not None
    assert job.error.code == "dependency_failed"
    assert first in job.error.message
    assert how in job.error.message
    assert second in jobs.get(db, third).error.message
    told = [event for event in events.read(db, 0)[0] if event.subject == second][-1]
    assert (told.data["state"], told.data["error"]["code"]) == ("cancelled", "dependency_failed")


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled"])
def test_any_end_will_do_where_it_is_asked_for(db, first, how):
    second = submit_one(db, "second", depends_on=after(first, mode=After.ANY)).id
    end(db, first, how)
    assert leases.due(db) == [second]


def test_a_retry_of_the_other_does_not_bring_it_back(db, first):
    second = submit_one(db, "second", depends_on=after(first)).id
    end(db, first, "failed")
    leases.due(db)
    jobs.retry(db, first)
    end(db, first)
    assert leases.due(db) == []
    assert state(db, second) is JobState.CANCELLED
    assert jobs.retry(db, second).state is JobState.QUEUED


def test_a_retry_waits_again_and_is_refused_while_the_other_has_failed(db, first):
    second = submit_one(db, "second", depends_on=after(first)).id
    end(db, first, "failed")
    leases.due(db)
    with pytest.raises(StateConflict, match=first):
        jobs.retry(db, second)
    jobs.retry(db, first)
    waits = jobs.retry(db, second)
    assert (waits.state, waits.error) == (JobState.SCHEDULED, None)
    end(db, first)
    assert leases.due(db) == [second]


def test_who_waits_for_a_deleted_job_is_not_sent_to_retry_it(db, first):
    second = submit_one(db, "second", depends_on=after(first)).id
    jobs.cancel(db, first)
    leases.due(db)
    jobs.hide(db, first)
    with pytest.raises(StateConflict) as refused:
        jobs.retry(db, second)
    assert refused.value.next == "that job was deleted: submit this one anew, without it"


def test_hold_and_release_do_not_jump_over_what_it_waits_for(db, clock, first):
    second = submit_one(db, "second", depends_on=after(first), not_before=clock() + timedelta(days=1)).id
    jobs.hold(db, second)
    end_of_wait = jobs.release(db, second)
    assert (end_of_wait.state, end_of_wait.not_before) == (JobState.SCHEDULED, None)
    assert leases.due(db) == []
    end(db, first)
    assert leases.due(db) == [second]


def test_a_held_one_stays_held_and_cannot_be_released_after_a_failure(db, first):
    second = submit_one(db, "second", depends_on=after(first), hold=True).id
    end(db, first, "failed")
    assert leases.due(db) == []
    assert state(db, second) is JobState.HELD
    with pytest.raises(StateConflict, match="which is failed"):
        jobs.release(db, second)
    with pytest.raises(StateConflict, match="cannot be retried"):
        jobs.retry(db, second)


def test_what_is_met_already_is_queued_at_once_and_what_has_failed_is_refused(db, first):
    end(db, first)
    assert submit_one(db, "second", depends_on=after(first)).state is JobState.QUEUED
    third = submit_one(db, "third", priority=9).id
    end(db, third, "failed")
    with pytest.raises(InvalidRequest, match="never start") as caught:
        submit_one(db, "fourth", depends_on=after(third))
    assert caught.value.field == "depends_on"
    assert submit_one(db, "fifth", depends_on=after(third, mode=After.ANY)).state is JobState.QUEUED


@pytest.mark.parametrize("which", ["unknown", "somebody else's", "hidden", "too short"])
def test_what_one_may_not_see_is_as_good_as_none(db, first, which):
    if which == "somebody else's":
        needs = submit_one(db, "other", owner="ann").id
    elif which == "hidden":
        jobs.cancel(db, first)
        jobs.hide(db, first)
        needs = first
    else:
        needs = "job_aaaaaaaaaaaa" if which == "unknown" else first[:6]
    with pytest.raises(InvalidRequest, match="there is no job") as caught:
        submit_one(db, "second", depends_on=after(needs))
    assert caught.value.field == "depends_on"
    assert jobs.find(db, search="second")[0] == [], "nothing of it was accepted"


def test_the_beginning_of_an_id_will_do(db, first):
    second = submit_one(db, "second", depends_on=after(first.removeprefix("job_")[:7], first))
    assert jobs.depends_on(db, second.id) == [Dependency(first, After.SUCCESS, JobState.QUEUED)]


def rows(**needs):
    """Rows of a batch by their keys, each with the keys that it needs."""
    return [
        new_job(key, batch="b", idempotency_key=key, depends_on=after(*(KEY_OF + one for one in wanted)))
        for key, wanted in needs.items()
    ]


def test_rows_of_one_batch_may_wait_for_each_other_in_any_order(db):
    register(db)
    last, middle, begin = (one.job for one in jobs.submit(db, rows(c=["b"], b=["a"], a=[])))
    assert [last.state, middle.state, begin.state] == [JobState.SCHEDULED, JobState.SCHEDULED, JobState.QUEUED]
    end(db, begin.id)
    assert leases.due(db) == [middle.id]
    again = jobs.submit(db, rows(c=["b"], b=["a"], a=[]))
    assert [one.created for one in again] == [False] * 3
    (added,) = jobs.submit(db, rows(d=["a"]))
    assert added.job.state is JobState.QUEUED, "a key of an earlier submission, which has succeeded"


@pytest.mark.parametrize(
    ("needs", "said"), [({"a": ["a"]}, "itself"), ({"a": ["c"], "b": ["a"], "c": ["b"]}, "3 jobs wait")]
)
def test_a_ring_is_refused_and_nothing_of_it_accepted(db, needs, said):
    with pytest.raises(InvalidRequest, match=said):
        jobs.submit(db, rows(**needs))
    assert jobs.find(db)[0] == []


def test_a_key_that_nobody_has_is_refused(db):
    with pytest.raises(InvalidRequest, match="there is no job"):
        jobs.submit(db, rows(a=["nobody"]))


def test_a_long_chain_is_cancelled_in_bounded_steps(db, first):
    keys = [f"k{n:03}" for n in range(40)]
    chain = {key: [before] for before, key in pairwise(keys)}
    jobs.submit(db, rows(**{keys[0]: []}, **chain))
    head = jobs.find(db, search=keys[0])[0][0].id
    jobs.cancel(db, head)
    leases.due(db)
    assert jobs.counts(db)[JobState.CANCELLED] == 40
    assert state(db, first) is JobState.QUEUED
