"""Two at once on the same job: one waits for the other and then sees what it did, or takes another job."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from farm.db import jobs, leases, nodes, quarantines, workers
from farm.db.dialect import farm_now
from farm.db.engine import open_database
from farm.db.leases import claiming
from farm.db.tables import dependencies
from farm.db.tables import jobs as job_rows
from farm.db.tables import lanes as lane_rows
from farm.db.tables import leases as lease_rows
from farm.db.tables import workers as worker_rows
from farm.domain.job import Dependency
from farm.domain.states import After, JobState, Order, Wish
from farm.domain.worker import Beat
from tests.db.conftest import LANE, register, submit_one, video
from tests.private_servers import until


@pytest.fixture
def other(url, clock):
    """Another process's door to the same database."""
    database = open_database(url, clock)
    yield database
    database.close()


class Act(threading.Thread):
    """Something that may have to wait for a transaction that the test keeps open."""

    def __init__(self, do: Callable[[], Any]) -> None:
        super().__init__()
        self._do = do
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._do()
        except Exception as error:
            self.result = error

    def waits(self, db) -> None:
        """Returns once it stands before a lock (or has ended, where nothing makes it wait)."""
        if db.dialect == "sqlite":
            return  # it cannot have begun: there is one writer
        asks = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )

        def blocked() -> bool:
            with db.read() as conn:
                return conn.exec_driver_sql(asks).scalar_one() > 0

        until("it waits", lambda: blocked() or not self.is_alive())

    def ends(self) -> Any:
        self.join(30)
        assert not self.is_alive()
        return self.result


def take(conn, job_id) -> None:
    """A claim that has not been committed yet."""
    conn.execute(update(job_rows).where(job_rows.c.id == job_id).values(state=JobState.LEASED, epoch=1))


def test_a_cancel_that_meets_a_claim_becomes_a_wish(db, other):
    register(db)
    job = submit_one(db)
    with db.write() as conn:
        take(conn, job.id)
        cancel = Act(lambda: jobs.cancel(other, job.id))
        cancel.waits(db)
    done = cancel.ends()
    assert (done.state, done.cancel_requested_at is not None) == (JobState.LEASED, True)


def test_a_cancel_that_meets_a_requeue_cancels(db, other):
    """Between its two looks the job must not slip from one state into the other."""
    register(db)
    job = submit_one(db)
    leases.claim(db, "w1", LANE)
    with db.write() as conn:
        conn.execute(update(job_rows).where(job_rows.c.id == job.id).values(state=JobState.QUEUED))
        cancel = Act(lambda: jobs.cancel(other, job.id))
        cancel.waits(db)
    assert cancel.ends().state is JobState.CANCELLED


def test_of_a_finish_and_a_cancel_one_wins_and_the_other_knows(db, other):
    register(db)
    job = submit_one(db)
    leases.claim(db, "w1", LANE)
    leases.start(db, job.id, 1)
    with db.write() as conn:
        conn.execute(select(job_rows.c.seq).where(job_rows.c.id == job.id).with_for_update())
        finish = Act(lambda: leases.finish(other, job.id, 1, video(job.id, 1), {}))
        finish.waits(db)
        conn.execute(
            update(job_rows)
            .where(job_rows.c.id == job.id)
            .values(state=JobState.CANCELLED, finished_at=job.created_at)
        )
    assert finish.ends() is False
    assert jobs.get(db, job.id).artifact is None


def test_the_reaper_waits_for_a_renewal_and_leaves_the_job(db, other, clock):
    register(db)
    job = submit_one(db)
    leases.claim(db, "w1", LANE)
    clock.forward(31)
    with db.write() as conn:
        later = clock.time.replace(hour=23)
        conn.execute(update(lease_rows).where(lease_rows.c.job == job.id).values(expires_at=later))
        reap = Act(lambda: leases.reap(other))
        reap.waits(db)
    assert reap.ends() == []
    assert jobs.get(db, job.id).state is JobState.LEASED


def test_the_reaper_and_a_worker_that_finishes_late_never_wait_in_a_ring(db, other, clock):
    """Both jobs are of one lane, which each end has to pay."""
    register(db)
    first, second = submit_one(db), submit_one(db)
    for job in (first, second):
        leases.claim(db, "w1", LANE)
        leases.start(db, job.id, 1)
        clock.forward(1)
    clock.forward(31)
    with db.write() as conn:
        conn.execute(select(job_rows.c.seq).where(job_rows.c.id == second.id).with_for_update())
        reap = Act(lambda: leases.reap(other))
        reap.waits(db)
        conn.execute(update(lane_rows).where(lane_rows.c.id == LANE).values(virtual_time=7.0))
    assert {job for job, _, _ in reap.ends()} == {first.id, second.id}


def test_the_reaper_and_an_agent_that_renews_late_never_wait_in_a_ring(db, other, clock):
    register(db)
    register(db, "w2")
    low, high = sorted([submit_one(db).id, submit_one(db).id])
    taken = [leases.claim(db, worker, LANE) for worker in ("w1", "w2")]
    for job, ago in ((high, 2), (low, 1)):  # the reaper's order is not the agent's
        with db.write() as conn:
            past = clock.time - timedelta(seconds=ago)
            conn.execute(update(lease_rows).where(lease_rows.c.job == job).values(expires_at=past))
    assert len(taken) == 2
    with db.write() as conn:
        # The agent's renewal, between its two leases.
        later = clock.time + timedelta(seconds=30)
        for n, job in enumerate((low, high)):
            if n == 1:
                reap = Act(lambda: leases.reap(other))
                reap.waits(db)
            conn.execute(update(lease_rows).where(lease_rows.c.job == job).values(expires_at=later))
    assert [job for job, _, _ in reap.ends()] in ([high], [])


def test_a_renewal_waits_for_the_reaper_and_hears_that_it_lost(db, other, clock):
    register(db)
    job = submit_one(db)
    leases.claim(db, "w1", LANE)
    clock.forward(31)
    with db.write() as conn:
        assert leases.expire(conn, job.id, 1, "w1", crash_cap=3) is JobState.QUEUED
        renew = Act(lambda: leases.renew(other, [Beat("w1", job.id, 1, None, (), "busy", None, 0)]))
        renew.waits(db)
    assert renew.ends() == {(job.id, 1): Order.LOST}


def test_a_job_that_somebody_is_taking_is_passed_over(db, other):
    if db.dialect == "sqlite":
        pytest.skip("its writers take turns")
    register(db)
    first, second, third = (submit_one(db) for _ in range(3))
    with db.write() as conn:
        take(conn, first.id)
        # Not waited for, and nothing behind it is locked by a claim that takes only one.
        given = leases.claim(other, "w1", LANE)
        assert given is not None
        assert given.job == second.id
    given = leases.claim(other, "w1", LANE)
    assert given is not None
    assert given.job == third.id


def test_two_dispatchers_never_starve_each_other(db, other, monkeypatch):
    """A claim under way locks the job that it takes, not the sixteen that it looks at."""
    if db.dialect == "sqlite":
        pytest.skip("its writers take turns")
    register(db)
    register(db, "w2")
    ids = [submit_one(db).id for _ in range(2)]
    real, meanwhile = claiming.Assignment, []

    def before_the_commit(**said):
        monkeypatch.setattr(claiming, "Assignment", real)
        meanwhile.append(leases.claim(other, "w2", LANE))
        return real(**said)

    monkeypatch.setattr(claiming, "Assignment", before_the_commit)
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    assert [given.job, *(g and g.job for g in meanwhile)] == ids


def test_beats_of_one_worker_from_two_sides_do_not_lose_a_wish(db, other):
    register(db)
    with db.write() as conn:
        conn.exec_driver_sql("UPDATE workers SET wish = 'drain'")
        beat = Act(lambda: workers.beat(other, [Beat("w1", None, 0, None, (), "idle", None, 0)]))
        beat.waits(db)
    assert beat.ends() is None
    (worker,) = workers.find(db)
    assert (worker.wish, worker.state) == (Wish.DRAIN, "idle")


def test_two_claims_for_one_worker_count_each_others(db, other):
    """Each alone would find room for one more."""
    register(db)
    for _ in range(2):
        submit_one(db)
    with db.write() as conn:
        # The first claim, up to its lock of the worker; its lease comes while the second one waits.
        conn.execute(select(worker_rows.c.gpu).where(worker_rows.c.id == "w1").with_for_update(key_share=True))
        second = Act(lambda: leases.claim(other, "w1", LANE, capacity=1))
        second.waits(db)
        (job, _) = conn.execute(select(job_rows.c.id, job_rows.c.seq).order_by(job_rows.c.seq).limit(1)).one()
        take(conn, job)
        now = {"renewed_at": farm_now(), "progress_at": farm_now(), "expires_at": farm_now(30.0)}
        conn.execute(insert(lease_rows).values(job=job, epoch=1, worker="w1", **now))
    assert second.ends() is None


def test_agents_and_people_may_name_a_new_node_at_the_same_time(db, other):
    register(db)
    with db.write() as conn:
        conn.exec_driver_sql("INSERT INTO nodes (node) VALUES ('n1')")
        beat = Act(lambda: nodes.beat(other, "n1", "boot"))
        beat.waits(db)
    assert beat.ends() is None
    assert [node.agent_boot for node in nodes.find(db)] == ["boot"]


def test_two_faults_may_set_a_gpu_aside_at_the_same_time(db, other):
    register(db)
    with db.write() as conn:
        quarantines.put_within(conn, "gpu-w1", "n1", "faults", "faults", 900.0)
        put = Act(lambda: quarantines.put(other, "gpu-w1", "fan is loud", "ann"))
        put.waits(db)
    assert put.ends().by == "ann"
    assert [one.by for one in quarantines.find(db)] == ["ann"]


def test_a_success_that_meets_due_is_seen_by_the_next_look(db, other):
    register(db)
    first = submit_one(db)
    second = submit_one(db, depends_on=(Dependency(first.id),))
    with db.write() as conn:
        conn.execute(
            update(job_rows).where(job_rows.c.id == first.id).values(state=JobState.FAILED, finished_at=farm_now())
        )
        look = Act(lambda: leases.due(other))
    assert look.ends() == []
    leases.due(db)
    assert jobs.get(db, second.id).state is JobState.CANCELLED


@pytest.mark.parametrize("act", ["lost", "claim", "cancel"])
def test_a_job_that_a_new_one_is_about_to_wait_for_moves_on(db, other, act):
    """Who accepts the new job holds its lane, which the end of the other one has to pay: a ring, if it waited."""
    if db.dialect == "sqlite":
        pytest.skip("its writers take turns")
    register(db)
    first = submit_one(db)
    second = submit_one(db, hold=True)
    if act == "lost":
        assert leases.claim(db, "w1", LANE)
    with db.write() as conn:
        conn.execute(insert(dependencies).values(job=second.id, needs=first.id, mode=After.SUCCESS))
        do = {
            "lost": lambda: leases.lost(other, first.id, 1, "died"),
            "claim": lambda: leases.claim(other, "w1", LANE),
            "cancel": lambda: jobs.cancel(other, first.id),
        }
        answer = Act(do[act]).ends()
    assert answer is not None, "passed over"
    assert not isinstance(answer, Exception), answer
