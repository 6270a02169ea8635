"""Finished jobs make room: only those that fit, only as they were seen, and none that somebody still waits for."""

from dataclasses import replace

import pytest

from farm.db import jobs, leases, pruning
from farm.db.engine import open_database
from farm.db.remains import Remains
from farm.domain.errors import InvalidRequest, JobNotFound
from farm.domain.job import Dependency, JobError
from farm.domain.prune import Scope, prune_order
from farm.domain.remains import Death
from farm.domain.states import After, JobState, Outcome
from tests.db.conftest import LANE, new_job, register, submit_one, video
from tests.db.test_side_by_side import Act

DAY = 86_400.0
ENDED = Scope(frozenset({JobState.FAILED, JobState.CANCELLED}))
MADE = Scope(frozenset({JobState.SUCCEEDED}))
ALL = Scope(frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}))


@pytest.fixture(autouse=True)
def worker(db):
    register(db)


@pytest.fixture
def other(url, clock):
    database = open_database(url, clock)
    yield database
    database.close()


def made(db, prompt="a kite", **kwargs):
    job = submit_one(db, prompt, **kwargs)
    claim = leases.claim(db, "w1", job.lane)
    assert claim is not None
    assert claim.job == job.id
    assert leases.start(db, job.id, claim.epoch)
    assert leases.finish(db, job.id, claim.epoch, video(job.id, claim.epoch), {})
    return job.id


def failed(db, job=None):
    job = job or submit_one(db).id
    claim = leases.claim(db, "w1", LANE)
    assert claim is not None
    assert leases.start(db, job, claim.epoch)
    leases.fail(db, job, claim.epoch, Outcome.USER_ERROR, JobError("bad", "bad"))
    return job


def cancelled(db, **kwargs):
    return jobs.cancel(db, submit_one(db, **kwargs).id).id


def pruned(db, scope):
    seen = pruning.candidates(db, scope, 100)
    return [one.job for one in seen if pruning.prune(db, scope, one)]


def test_only_jobs_that_are_over_and_fit_everything_go(db, clock):
    kite = made(db, project="north", tags={"shot": "1", "take": "2"})
    boat = made(db, project="north", tags={"shot": "1"})
    over = [failed(db), cancelled(db)]
    waiting = submit_one(db).id
    running = submit_one(db, project="south")
    assert leases.claim(db, "w1", running.lane) is not None
    clock.forward(30 * DAY)
    young = cancelled(db)
    assert pruned(db, replace(ENDED, project="north")) == []
    assert pruned(db, replace(MADE, project="north", tags={"shot": "1", "take": "2"})) == [kite]
    assert pruned(db, replace(ENDED, older_than=29 * DAY)) == over
    assert pruned(db, replace(ALL, older_than=31 * DAY)) == []
    assert pruned(db, replace(ALL, owner="somebody else")) == []
    assert {job.id for job in jobs.find(db)[0]} == {boat, waiting, running.id, young}
    assert pruned(db, ALL) == [boat, young]
    with pytest.raises(JobNotFound):
        jobs.get(db, kite)


def test_the_outlook_says_how_many_how_much_and_from_when_and_changes_nothing(db, clock):
    begun = clock.time
    made(db)
    clock.forward(DAY)
    made(db)
    cancelled(db)
    for _ in range(2):
        seen = pruning.outlook(db, ALL)
        assert (seen.jobs, seen.bytes, seen.waited_for, seen.images_kept) == (3, 2 * 12345, 0, 0)
        assert (seen.oldest, seen.newest, seen.as_of) == (begun, clock.time, clock.time)
    assert pruning.outlook(db, replace(ALL, project="none")).oldest is None


@pytest.mark.parametrize("how", [After.SUCCESS, After.ANY])
def test_a_job_that_others_wait_for_stays_until_they_are_over(db, how):
    first = made(db)
    waiter = jobs.hold(db, submit_one(db, depends_on=(Dependency(first, how),)).id).id
    seen = pruning.outlook(db, MADE)
    assert (seen.jobs, seen.waited_for, pruning.waited_for(db, MADE)) == (0, 1, 1)
    assert pruned(db, MADE) == []
    jobs.cancel(db, waiter)
    assert pruned(db, MADE) == [first]


def test_a_job_that_somebody_begins_to_wait_for_after_the_look_stays(db):
    (seen,) = pruning.candidates(db, MADE, 10) if made(db) else ()
    submit_one(db, depends_on=(Dependency(seen.job),))
    assert not pruning.prune(db, MADE, seen)


def test_a_job_that_is_retried_between_the_look_and_the_delete_stays(db, clock):
    job = failed(db)
    (seen,) = pruning.candidates(db, ENDED, 10)
    jobs.retry(db, job)
    assert not pruning.prune(db, ENDED, seen)
    clock.forward(1)
    failed(db, job)
    assert not pruning.prune(db, ENDED, seen), "it has ended anew since"
    (seen,) = pruning.candidates(db, ENDED, 10)
    clock.forward(1)
    jobs.retry(db, job)
    jobs.cancel(db, job)
    assert not pruning.prune(db, ENDED, seen), "and again, without another claim"
    looked_at = pruning.outlook(db, ENDED).as_of
    clock.forward(1)
    later = cancelled(db)
    assert pruned(db, replace(ENDED, as_of=looked_at)) == [job], f"not {later}"


def test_of_a_retry_and_a_prune_at_once_one_wins_and_the_other_knows(db, other):
    """Whichever holds the row first: no job is both in the queue and gone from the lists."""
    job = failed(db)
    (seen,) = pruning.candidates(db, ENDED, 10)
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE jobs SET state = 'queued', finished_at = NULL, error = NULL")
        prune = Act(lambda: pruning.prune(other, ENDED, seen))
        prune.waits(db)
    assert prune.ends() is False
    assert jobs.get(db, job).state is JobState.QUEUED

    jobs.cancel(db, job)
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE jobs SET hidden_at = finished_at")
        retry = Act(lambda: jobs.retry(other, job))
        retry.waits(db)
    assert isinstance(retry.ends(), JobNotFound)
    with db.read() as conn:
        assert conn.exec_driver_sql("SELECT state FROM jobs").scalar_one() == "cancelled"


@pytest.mark.parametrize("keep_rows", [True, False])
def test_of_two_who_prune_the_same_job_one_does(db, keep_rows):
    made(db)
    scope = replace(MADE, keep_rows=keep_rows)
    (seen,) = pruning.candidates(db, scope, 10)
    assert [pruning.prune(db, scope, seen) for _ in range(2)] == [True, False]


def test_with_keep_rows_the_job_stays_listed_without_its_video_and_only_once(db, clock):
    job, lost = made(db), failed(db)
    videos = replace(ALL, keep_rows=True)
    assert (pruning.outlook(db, videos).jobs, pruning.outlook(db, videos).bytes) == (1, 12345)
    assert pruned(db, videos) == [job]
    assert {j.id: j.video_removed_at for j in jobs.find(db)[0]} == {job: clock.time, lost: None}
    assert jobs.get(db, job).state is JobState.SUCCEEDED
    assert pruned(db, videos) == []
    assert pruning.outlook(db, MADE).bytes == 0
    assert pruned(db, MADE) == [job]


def test_whoever_dies_before_the_files_are_gone_leaves_them_to_the_sweep(db, clock):
    job, other_job = made(db), made(db)
    remains = Remains(db, hidden_for=7 * DAY, ended_for=DAY)
    (seen, _) = pruning.candidates(db, MADE, 2)
    assert pruning.prune(db, replace(MADE, keep_rows=True), seen)
    assert remains.dead([(job, 1), (other_job, 1)]) == {(job, 1): Death.REMOVED, (other_job, 1): None}
    assert pruning.prune(db, MADE, seen)
    clock.forward(8 * DAY)
    assert remains.dead([(job, 1)]) == {(job, 1): Death.HIDDEN}


def test_images_that_other_jobs_use_are_counted(db):
    red, blue = "ab" * 32, "cd" * 32
    for image, end in ((red, True), (blue, True), (red, False)):
        wish = new_job()
        job = jobs.submit(db, [replace(wish, spec=replace(wish.spec, image=image))])[0].job.id
        if end:
            jobs.cancel(db, job)
    assert pruning.outlook(db, ENDED).images_kept == 1


def test_a_request_names_a_filter_and_loses_videos_only_where_it_says_so():
    order = prune_order({"older_than": 60})
    assert (order.dry_run, order.scope.states) == (True, {JobState.FAILED, JobState.CANCELLED})
    assert prune_order({"states": ["succeeded"], "dry_run": False}).scope.states == {JobState.SUCCEEDED}
    for nothing in ({}, {"project": " "}, {"states": [], "tags": {}}, {"dry_run": False, "keep_rows": True}):
        with pytest.raises(InvalidRequest, match="without any filter"):
            prune_order(nothing)
    for wrong, field in (
        ({"older_than": -1}, "older_than"), ({"older_than": "1e9"}, None), ({"older_than": "nan"}, "older_than"),
        ({"states": ["running"]}, "states"), ({"project": "p", "keep_rows": True}, "keep_rows"),
        ({"project": 7}, "project"), ({"tags": ["a"]}, "tags"), ({"project": "p", "as_of": "soon"}, "as_of"),
        ({"project": "p", "limit": 0}, "limit"), ({"projects": "p"}, "projects"),
    ):  # fmt: skip
        if field is None:
            assert prune_order(wrong).scope.older_than == 1e9
            continue
        with pytest.raises(InvalidRequest) as refused:
            prune_order(wrong)
        assert refused.value.field == field
