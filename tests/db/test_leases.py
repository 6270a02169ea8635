"""Machines and their claims: exactly one wins each transition, and a void claim changes nothing."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from farm.db import events, jobs, lanes, leases, nodes, workers
from farm.db.engine import open_database
from farm.db.leases import claiming
from farm.db.tables import lanes as lane_rows
from farm.domain.job import JobError, Progress
from farm.domain.states import FINAL, JobState, Order, Outcome, StageName, Wish
from farm.domain.worker import Beat
from tests.db.conftest import LANE, register, submit_one, video

OOPS = JobError("oops", "it broke")


def claim(db, worker="w1", lane=LANE, **kwargs):
    given = leases.claim(db, worker, lane, **kwargs)
    assert given is not None
    return given


def running(db, worker="w1"):
    register(db, worker)
    job = submit_one(db)
    given = claim(db, worker)
    assert leases.start(db, job.id, given.epoch)
    return job.id


def snapshot(db, job_id):
    return jobs.get(db, job_id), jobs.attempts(db, job_id), events.latest(db), lanes.lanes(db)


def beat(job, epoch=1, worker="w1", **progress):
    at = Progress(StageName.DENOISE, **progress) if progress else None
    return Beat(worker, job, epoch, at, (), "busy", None, 0)


# -- claim


def test_claim_takes_the_head_by_priority_then_age(db):
    register(db)
    old, young, urgent = submit_one(db), submit_one(db), submit_one(db, priority=1)
    assert [claim(db).job for _ in range(3)] == [urgent.id, old.id, young.id]
    assert leases.claim(db, "w1", LANE) is None


def test_claim_prefers_resident_weights_among_equals_and_only_near_the_head(db):
    register(db)
    cold = [submit_one(db, digest="cold") for _ in range(16)]
    far = submit_one(db, digest="warm")
    assert claim(db, models=["warm"]).job == cold[0].id, "17th is too far to overtake"
    assert claim(db, models=["warm"]).job == far.id, "now it is the 16th"
    urgent = submit_one(db, digest="cold", priority=1)
    submit_one(db, digest="warm")
    assert claim(db, models=["warm"]).job == urgent.id, "priority comes before weights"


def test_a_closed_lane_gives_nothing_until_it_is_opened(db):
    register(db)
    submit_one(db)
    assert lanes.close_lane(db, LANE, "night only")
    assert leases.claim(db, "w1", LANE) is None
    assert lanes.lanes(db)[0].closed_reason == "night only"
    assert lanes.open_lane(db, LANE)
    assert claim(db).epoch == 1
    assert not lanes.close_lane(db, "no/such/lane/x", "?")


@pytest.mark.parametrize("wish", [Wish.DRAIN, Wish.RESTART, Wish.QUARANTINE])
def test_a_worker_that_is_to_stop_gets_nothing(db, wish):
    register(db)
    submit_one(db)
    workers.wish(db, "w1", wish)
    assert leases.claim(db, "w1", LANE) is None


def test_a_worker_that_is_gone_or_unknown_gets_nothing(db):
    register(db)
    submit_one(db)
    workers.gone(db, "w1")
    assert leases.claim(db, "w1", LANE) is None
    assert leases.claim(db, "never-registered", LANE) is None


def test_threads_of_two_connections_never_claim_the_same_job(db, url, clock):
    ids = [submit_one(db).id for _ in range(40)]
    for n in range(4):
        register(db, f"w{n}")
    taken: list[tuple[str, int]] = []

    def work(worker: str) -> None:
        mine = open_database(url, clock)
        while (given := leases.claim(mine, worker, LANE, capacity=99)) is not None:
            taken.append((given.job, given.epoch))
        mine.close()

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted((job_id, 1) for job_id in ids)


def test_a_crash_in_the_middle_of_a_claim_leaves_the_job_in_the_queue(db, monkeypatch):
    register(db)
    job = submit_one(db)

    def crash(**said):
        raise KeyboardInterrupt

    monkeypatch.setattr(claiming, "Assignment", crash)  # after the job, its lease and its attempt were written
    before = snapshot(db, job.id)
    with pytest.raises(KeyboardInterrupt):
        leases.claim(db, "w1", LANE)
    assert snapshot(db, job.id) == before


# -- the fence


def stale_acts(job, epoch):
    return {
        "start": lambda db: leases.start(db, job, epoch),
        "recall": lambda db: leases.recall(db, job, epoch),
        "finish": lambda db: leases.finish(db, job, epoch, video(job, epoch), {}),
        "fail": lambda db: leases.fail(db, job, epoch, Outcome.USER_ERROR, OOPS),
        "give_back": lambda db: leases.give_back(db, job, epoch, Outcome.DRAIN, "drained"),
        "cancelled": lambda db: leases.cancelled(db, job, epoch),
        "lost": lambda db: leases.lost(db, job, epoch, "died"),
    }


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("act", stale_acts("", 0))
def test_a_stale_worker_changes_nothing(db, clock, act, started):
    """Stopped past its TTL, its job claimed elsewhere, awake again."""
    job_id = running(db)
    clock.forward(31)
    assert leases.reap(db) == [(job_id, 1, JobState.QUEUED)]
    register(db, "w2")
    assert claim(db, "w2").epoch == 2
    if started:
        assert leases.start(db, job_id, 2)
        jobs.cancel(db, job_id)
    before = snapshot(db, job_id)
    assert not stale_acts(job_id, 1)[act](db)
    assert leases.renew(db, [beat(job_id, 1, k=9, n=16)]) == {(job_id, 1): Order.LOST}
    assert snapshot(db, job_id) == before
    assert leases.finish(db, job_id, 2, video(job_id, 2), {})


@pytest.mark.parametrize("final", sorted(FINAL))
@pytest.mark.parametrize("act", ["start", "recall", "finish", "fail", "give_back", "cancelled", "lost", "reap"])
def test_nothing_overwrites_a_final_state(db, clock, act, final):
    job_id = running(db)
    if final is JobState.SUCCEEDED:
        assert leases.finish(db, job_id, 1, video(job_id, 1), {})
    elif final is JobState.FAILED:
        assert leases.fail(db, job_id, 1, Outcome.USER_ERROR, OOPS) is JobState.FAILED
    else:
        jobs.cancel(db, job_id)
        assert leases.cancelled(db, job_id, 1)
    before = snapshot(db, job_id)
    clock.forward(1000)
    if act == "reap":
        assert leases.reap(db) == []
    elif act == "finish" and final is JobState.SUCCEEDED:
        assert leases.finish(db, job_id, 1, video("other", 1), {}), "told again that it won"
    else:
        assert not stale_acts(job_id, 1)[act](db)
    assert snapshot(db, job_id) == before


def test_start_and_recall_exclude_each_other(db):
    register(db)
    job = submit_one(db)
    claim(db)
    assert leases.start(db, job.id, 1)
    assert not leases.start(db, job.id, 1)
    assert not leases.recall(db, job.id, 1)
    other = submit_one(db)
    claim(db)
    assert leases.recall(db, other.id, 1)
    assert not leases.start(db, other.id, 1)
    back = jobs.get(db, other.id)
    assert (back.state, back.failures) == (JobState.QUEUED, 0)
    assert jobs.attempts(db, other.id)[0].outcome is Outcome.RECALL


# -- renewals


def test_a_renewed_lease_outlives_its_ttl_and_carries_progress(db, clock):
    job_id = running(db)
    for k in range(1, 5):
        clock.forward(20)
        assert leases.renew(db, [beat(job_id, k=k, n=16)]) == {(job_id, 1): Order.CONTINUE}
        assert leases.reap(db) == []
    at = jobs.get(db, job_id).progress
    assert at == Progress(StageName.DENOISE, 4, 16, None, "w1")


def test_renewals_are_no_events(db):
    job_id = running(db)
    told = events.latest(db)
    leases.renew(db, [beat(job_id, k=1, n=16)])
    assert events.latest(db) == told


def test_renewals_bring_orders(db):
    job_id = running(db)
    assert leases.renew(db, [beat(None), beat(job_id, worker="w9")]) == {(job_id, 1): Order.LOST}
    workers.wish(db, "w1", Wish.DRAIN, now=True)
    assert leases.renew(db, [beat(job_id)]) == {(job_id, 1): Order.DRAIN}
    jobs.cancel(db, job_id)
    assert leases.renew(db, [beat(job_id)]) == {(job_id, 1): Order.CANCEL}


def test_a_beat_of_its_own_earlier_claim_renews_nothing(db, clock):
    job_id = running(db)
    clock.forward(31)
    leases.reap(db)
    assert claim(db).epoch == 2
    clock.forward(29)
    assert leases.renew(db, [beat(job_id, 1)]) == {(job_id, 1): Order.LOST}
    clock.forward(2)
    assert leases.reap(db) == [(job_id, 2, JobState.QUEUED)]


def test_an_expired_lease_that_nobody_reaped_may_be_renewed(db, clock):
    job_id = running(db)
    clock.forward(100)
    assert leases.renew(db, [beat(job_id)]) == {(job_id, 1): Order.CONTINUE}
    assert leases.reap(db) == []


# -- the reaper


def test_the_reaper_takes_only_what_has_expired(db, clock):
    job_id = running(db)
    clock.forward(30)
    nodes.beat(db, "n1", "boot")
    assert leases.reap(db) == [], "30 s are not over at 30.0"
    clock.forward(0.001)
    assert leases.reap(db) == [(job_id, 1, JobState.QUEUED)]
    job = jobs.get(db, job_id)
    assert (job.state, job.failures, job.progress, job.started_at) == (JobState.QUEUED, 1, None, None)
    (attempt,) = jobs.attempts(db, job_id)
    assert (attempt.outcome, attempt.cause) == (Outcome.LOST, "worker w1 stopped answering")
    assert leases.reap(db) == []


def test_the_reaper_asks_again_as_it_grips(db, clock):
    """Between its look and its grip the worker may have renewed: the guard is in the UPDATE too."""
    job_id = running(db)
    before = snapshot(db, job_id)
    with db.write() as conn:
        assert leases.expire(conn, job_id, 1, "w1", crash_cap=3) is None
    assert snapshot(db, job_id) == before


def test_a_job_that_never_started_is_requeued_without_blame(db, clock):
    register(db)
    job = submit_one(db)
    claim(db)
    clock.forward(31)
    nodes.beat(db, "n1", "boot")
    assert leases.reap(db) == [(job.id, 1, JobState.QUEUED)]
    assert jobs.get(db, job.id).failures == 0


def test_the_reaper_cancels_what_was_to_be_cancelled(db, clock):
    job_id = running(db)
    jobs.cancel(db, job_id)
    clock.forward(31)
    assert leases.reap(db) == [(job_id, 1, JobState.CANCELLED)]
    assert jobs.get(db, job_id).finished_at == clock()


# -- other ends


def test_a_death_notice_requeues_at_once(db):
    job_id = running(db)
    assert leases.lost(db, job_id, 1, "killed by signal 9") is JobState.QUEUED
    assert jobs.get(db, job_id).failures == 1
    assert jobs.attempts(db, job_id)[0].cause == "killed by signal 9"
    assert leases.lost(db, job_id, 1, "again") is None
    assert claim(db).epoch == 2


def test_a_user_error_fails_at_once(db):
    job_id = running(db)
    assert leases.fail(db, job_id, 1, Outcome.USER_ERROR, OOPS) is JobState.FAILED
    assert jobs.get(db, job_id).error == OOPS


@pytest.mark.parametrize("outcome", [Outcome.DRAIN, Outcome.PREEMPT, Outcome.DEPENDENCY])
def test_giving_back_is_no_blame(db, outcome):
    job_id = running(db)
    assert leases.give_back(db, job_id, 1, outcome, "window closed")
    job = jobs.get(db, job_id)
    assert (job.state, job.failures, job.error) == (JobState.QUEUED, 0, None)
    assert jobs.attempts(db, job_id)[0].outcome is outcome
    with pytest.raises(ValueError, match="not given back"):
        leases.give_back(db, job_id, 1, Outcome.LOST, "?")


def test_what_is_given_back_after_a_wish_to_cancel_is_cancelled(db):
    job_id = running(db)
    jobs.cancel(db, job_id)
    assert leases.give_back(db, job_id, 1, Outcome.DRAIN, "drained")
    assert jobs.get(db, job_id).state is JobState.CANCELLED


def test_a_worker_given_up_may_still_deliver_while_nobody_has_claimed_since(db, clock):
    job_id = running(db)
    clock.forward(31)
    leases.reap(db)
    paid = lanes.lanes(db)[0].virtual_time
    assert leases.finish(db, job_id, 1, video(job_id, 1), {"denoise": 30.0})
    job = jobs.get(db, job_id)
    assert (job.state, job.artifact) == (JobState.SUCCEEDED, video(job_id, 1))
    (attempt,) = jobs.attempts(db, job_id)
    assert attempt.outcome is Outcome.SUCCEEDED
    assert attempt.cause == "delivered after it had been given up"
    assert lanes.lanes(db)[0].virtual_time == paid, "its lane pays once"


def test_a_job_held_since_takes_no_late_delivery(db, clock):
    job_id = running(db)
    clock.forward(31)
    leases.reap(db)
    jobs.hold(db, job_id)
    assert not leases.finish(db, job_id, 1, video(job_id, 1), {})
    assert jobs.get(db, job_id).state is JobState.HELD


# -- lanes pay


def test_a_lane_pays_for_the_seconds_its_job_ran_by_its_weight(db, clock):
    job_id = running(db)
    with db.write() as conn:
        conn.execute(update(lane_rows).values(weight=2.0))
    clock.forward(10)
    leases.give_back(db, job_id, 1, Outcome.DRAIN, "drained")
    assert lanes.lanes(db)[0].virtual_time == 5.0
    claim(db)
    clock.forward(100)
    leases.recall(db, job_id, 2)
    assert lanes.lanes(db)[0].virtual_time == 5.0, "waiting for a start is free"


def test_a_newcomer_starts_where_the_busy_lanes_are(db, clock):
    job_id = running(db)
    submit_one(db)
    clock.forward(60)
    leases.finish(db, job_id, 1, video(job_id, 1), {})
    submit_one(db, owner="ann")
    submit_one(db, owner="bob", interactive=False)
    had = {lane.id.split("/")[0] + "/" + lane.cls: lane.virtual_time for lane in lanes.lanes(db)}
    assert had == {"local/interactive": 60.0, "ann/interactive": 60.0, "bob/bulk": 0.0}
    view = lanes.lanes(db)
    assert [(lane.waiting, lane.running) for lane in view] == [(1, 0), (1, 0), (1, 0)]


def test_a_job_held_or_scheduled_wakes_its_lane_when_it_joins(db, clock):
    held = submit_one(db, owner="ann", hold=True)
    submit_one(db, owner="bob", not_before=clock() + timedelta(seconds=10))
    job_id = running(db)
    submit_one(db)
    clock.forward(60)
    leases.finish(db, job_id, 1, video(job_id, 1), {})
    jobs.release(db, held.id)
    leases.due(db)
    assert {lane.virtual_time for lane in lanes.lanes(db)} == {60.0}


def test_due_queues_what_is_due(db, clock):
    soon, later = (submit_one(db, not_before=clock() + timedelta(seconds=s)) for s in (10, 20))
    assert leases.due(db) == []
    clock.forward(10)
    assert leases.due(db) == [soon.id]
    assert jobs.get(db, soon.id).state is JobState.QUEUED
    assert jobs.get(db, later.id).state is JobState.SCHEDULED
