"""What people may ask of a job in each state, and how they find it again."""

from datetime import timedelta

import pytest

from farm.db import events, jobs, leases
from farm.domain.errors import InvalidRequest, JobNotFound, StateConflict
from farm.domain.job import Dependency, JobError
from farm.domain.states import FINAL, JobState, Order, Outcome
from farm.domain.worker import Beat
from tests.db.conftest import LANE, new_job, register, submit_one, video

ASKS = {
    "cancel": jobs.cancel,
    "hold": jobs.hold,
    "release": jobs.release,
    "retry": jobs.retry,
    "set_priority": lambda db, job_id: jobs.set_priority(db, job_id, 5),
    "hide": jobs.hide,
}
# What becomes of a job in each state when asked; None: refused.
BECOMES = {
    JobState.SCHEDULED: {"cancel": "cancelled", "hold": "held", "set_priority": "scheduled"},
    JobState.QUEUED: {"cancel": "cancelled", "hold": "held", "set_priority": "queued"},
    JobState.HELD: {"cancel": "cancelled", "release": "queued", "set_priority": "held"},
    JobState.LEASED: {"cancel": "leased"},
    JobState.RUNNING: {"cancel": "running"},
    JobState.SUCCEEDED: {"hide": "succeeded"},
    JobState.FAILED: {"retry": "queued", "hide": "failed"},
    JobState.CANCELLED: {"retry": "queued", "hide": "cancelled", "cancel": "cancelled"},
}


def bring(db, clock, state):
    """A job in this state, by the ways that lead there."""
    register(db)
    if state is JobState.SCHEDULED:
        return submit_one(db, not_before=clock() + timedelta(hours=1)).id
    job_id = submit_one(db, hold=state is JobState.HELD).id
    if state is JobState.CANCELLED:
        jobs.cancel(db, job_id)
    if state in {JobState.LEASED, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED}:
        assert leases.claim(db, "w1", LANE)
    if state in {JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED}:
        assert leases.start(db, job_id, 1)
    if state is JobState.SUCCEEDED:
        assert leases.finish(db, job_id, 1, video(job_id, 1), {})
    if state is JobState.FAILED:
        assert leases.fail(db, job_id, 1, Outcome.USER_ERROR, JobError("bad", "bad"))
    assert jobs.get(db, job_id).state is state
    return job_id


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("state", list(JobState))
def test_every_ask_in_every_state(db, clock, state, ask):
    job_id = bring(db, clock, state)
    before, told = jobs.get(db, job_id), events.latest(db)
    becomes = BECOMES[state].get(ask)
    if becomes is None:
        with pytest.raises(StateConflict) as caught:
            ASKS[ask](db, job_id)
        assert f"is {state} and cannot be" in caught.value.message
        assert caught.value.next, "says what is possible"
        assert jobs.get(db, job_id) == before
        assert events.latest(db) == told
        return
    after = ASKS[ask](db, job_id)
    assert after.state == becomes
    assert (after.finished_at is not None) == (after.state in FINAL)
    if after != before or ask == "hide":
        news, _ = events.read(db, told)
        assert [(e.kind, e.subject, e.data["state"]) for e in news] == [("job", job_id, becomes)]


def test_cancel_of_an_active_job_is_a_wish_that_its_worker_obeys(db, clock):
    job_id = bring(db, clock, JobState.RUNNING)
    assert not leases.cancelled(db, job_id, 1), "nobody has asked yet"
    wished = jobs.cancel(db, job_id)
    assert wished.cancel_requested_at == clock()
    clock.forward(1)
    assert jobs.cancel(db, job_id).cancel_requested_at == wished.cancel_requested_at, "the first wish counts"
    beat = Beat("w1", job_id, 1, None, (), "busy", None, 0)
    assert leases.renew(db, [beat]) == {(job_id, 1): Order.CANCEL}
    assert leases.cancelled(db, job_id, 1, {"denoise": 1.0})
    assert jobs.get(db, job_id).state is JobState.CANCELLED
    assert jobs.attempts(db, job_id)[0].outcome is Outcome.CANCELLED


def test_retry_is_the_same_row_with_a_clean_slate_at_its_next_epoch(db, clock):
    job_id = bring(db, clock, JobState.FAILED)
    again = jobs.retry(db, job_id)
    assert (again.id, again.epoch, again.failures, again.error) == (job_id, 1, 0, None)
    assert (again.started_at, again.finished_at, again.cancel_requested_at) == (None, None, None)
    claimed = leases.claim(db, "w1", LANE)
    assert claimed is not None
    assert claimed.epoch == 2
    assert [a.epoch for a in jobs.attempts(db, job_id)] == [1, 2]


def test_a_hidden_job_is_found_nowhere_and_gives_its_key_back(db):
    job = submit_one(db, idempotency_key="k")
    jobs.cancel(db, job.id)
    jobs.hide(db, job.id)
    with pytest.raises(JobNotFound):
        jobs.get(db, job.id)
    assert jobs.find(db) == ([], None)
    assert sum(jobs.counts(db).values()) == 0
    (again,) = jobs.submit(db, [new_job(idempotency_key="k")])
    assert again.created


def test_a_unique_prefix_is_enough(db, monkeypatch):
    ids = iter(["job_abcdefgh2345", "job_abcdefxy2345", "job_zzzzzzzz7777"])
    monkeypatch.setattr("farm.db.submission.new_id", lambda: next(ids))
    for _ in range(3):
        submit_one(db)
    assert jobs.get(db, "job_zz").id == "job_zzzzzzzz7777"
    assert jobs.get(db, "abcdefg").id == "job_abcdefgh2345"
    assert jobs.get(db, "job_abcdefxy2345").id == "job_abcdefxy2345"
    with pytest.raises(JobNotFound, match="more than one"):
        jobs.get(db, "abcdef")
    for wrong in ("abcde", "job_q2", "nope", "", "%%%%%%", "job_abcdefgh2345x"):
        with pytest.raises(JobNotFound):
            jobs.get(db, wrong)


def test_pages_hold_still_while_jobs_arrive(db):
    ids = [s.job.id for s in jobs.submit(db, [new_job(f"prompt {i}") for i in range(5)])]
    first, cursor = jobs.find(db, limit=2)
    assert [j.id for j in first] == ids[:2:-1]
    submit_one(db, "late")
    second, cursor = jobs.find(db, limit=2, after=cursor)
    third, end = jobs.find(db, limit=2, after=cursor)
    assert [j.id for j in second + third] == ids[2::-1]
    assert end is None
    oldest, cursor = jobs.find(db, limit=3, order="asc")
    assert [j.id for j in oldest] == ids[:3]
    assert [j.id for j in jobs.find(db, order="asc", after=cursor)[0]][:2] == ids[3:]
    with pytest.raises(InvalidRequest, match="cursor"):
        jobs.find(db, after="job_unknown")
    with pytest.raises(InvalidRequest, match="order"):
        jobs.find(db, order="sideways")


def test_filters(db):
    kite = submit_one(db, "A red Kite, 100%")
    other = submit_one(db, "一只猫", model="other-model", batch="night")
    held = submit_one(db, "held", hold=True)

    def found(**kwargs):
        return [j.id for j in jobs.find(db, order="asc", **kwargs)[0]]

    assert found() == [kite.id, other.id, held.id]
    assert found(states=[JobState.HELD]) == [held.id]
    assert found(states=[]) == []
    assert found(model="other-model") == [other.id]
    assert found(batch="night") == [other.id]
    assert found(search="kite") == [kite.id]
    assert found(search="猫") == [other.id]
    assert found(search="0%") == [kite.id], "a percent sign is no wildcard"
    assert found(search="%") == [kite.id]
    assert jobs.counts(db)[JobState.QUEUED] == 2


def test_filters_by_who_and_what_for(db):
    mine = submit_one(db, "a kite", owner="ann", project="trailer", tags={"shot": "12a", 'odd "key': "猫"})
    other = submit_one(db, "a boat", owner="bob", project="trailer", tags={"shot": "12", "take": "12a"})

    def found(**kwargs):
        return [j.id for j in jobs.find(db, order="asc", **kwargs)[0]]

    assert found(owner="ann") == [mine.id]
    assert found(project="trailer") == [mine.id, other.id]
    assert found(project="trailer", owner="bob") == [other.id]
    assert found(tag=("shot", "12a")) == [mine.id]
    assert found(tag=('odd "key', "猫")) == [mine.id]
    assert found(tag=("shot", "1")) == []
    assert jobs.counts(db, owner="ann")[JobState.QUEUED] == 1
    assert jobs.counts(db, tag=("take", "12a"), search="boat")[JobState.QUEUED] == 1
    assert jobs.counts(db, tag=("take", "12a"), search="kite")[JobState.QUEUED] == 0
    told = jobs.labels(db)
    assert (told.owners, told.projects) == (("ann", "bob"), ("trailer",))
    assert told.tags == (('odd "key', "猫"), ("shot", "12"), ("shot", "12a"), ("take", "12a"))


def test_the_front_is_before_all_that_wait_in_the_lane(db):
    first, second, third = (submit_one(db, p).id for p in "abc")
    submit_one(db, "another lane", owner="ann", priority=50)
    jobs.move_to_front(db, third)
    assert [jobs.position(db, x) for x in (first, second, third)] == [1, 2, 0]
    assert jobs.get(db, third).priority == 1
    jobs.move_to_front(db, third)
    assert jobs.get(db, third).priority == 1, "it is there already"
    jobs.set_priority(db, third, 100)
    jobs.move_to_front(db, second)
    assert jobs.get(db, second).priority == 100, "there is nothing above"
    jobs.cancel(db, first)
    with pytest.raises(StateConflict):
        jobs.move_to_front(db, first)


def test_who_waits_for_a_job_is_known(db):
    base = submit_one(db, "base")
    waits = submit_one(db, "waits", depends_on=(Dependency(base.id),))
    gone = submit_one(db, "gone", depends_on=(Dependency(base.id),))
    jobs.cancel(db, gone.id)
    jobs.hide(db, gone.id)
    assert jobs.dependents(db, base.id) == [(waits.id, JobState.SCHEDULED)]
    assert jobs.dependents(db, waits.id) == []


def test_position_counts_who_goes_first_in_the_same_lane(db):
    a, b, c = (submit_one(db, p).id for p in "abc")
    submit_one(db, "another lane", owner="ann", priority=9)
    assert [jobs.position(db, x) for x in (a, b, c)] == [0, 1, 2]
    jobs.set_priority(db, c, 1)
    assert [jobs.position(db, x) for x in (a, b, c)] == [1, 2, 0]
    jobs.hold(db, c)
    assert [jobs.position(db, x) for x in (a, b, c)] == [0, 1, None]
