"""Whatever people, workers, the clock and the reaper do, in whatever order: what must hold, holds."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from farm.db import events, jobs, leases
from farm.db.engine import Database
from farm.db.tables import leases as lease_rows
from farm.db.tables import metadata
from farm.domain.errors import StateConflict
from farm.domain.job import JobError
from farm.domain.states import ACTIVE, FINAL, JobState, Outcome
from tests.db.conftest import LANE, Clock, register, submit_one, video

OOPS = JobError("oops", "it broke")
WORKERS = ("w1", "w2")

people = st.sampled_from([jobs.cancel, jobs.hold, jobs.release, jobs.retry])
claims = st.integers(0, 4)  # which of the claims so far; the latest ones matter most
MACHINES = {
    "start": lambda db, j, e: leases.start(db, j, e),
    "recall": lambda db, j, e: leases.recall(db, j, e),
    "finish": lambda db, j, e: leases.finish(db, j, e, video(j, e), {}),
    "user_error": lambda db, j, e: leases.fail(db, j, e, Outcome.USER_ERROR, OOPS),
    "oom": lambda db, j, e: leases.fail(db, j, e, Outcome.OUT_OF_MEMORY, OOPS),
    "fault": lambda db, j, e: leases.fail(db, j, e, Outcome.DEVICE_FAULT, OOPS),
    "expand": lambda db, j, e: leases.expand(db, j, e, "more words"),
    "node_lost": lambda db, j, e: leases.lost(db, j, e, "its node is gone", agent_lived=False),
    "drain": lambda db, j, e: leases.give_back(db, j, e, Outcome.DRAIN, "drained"),
    "cancelled": lambda db, j, e: leases.cancelled(db, j, e),
    "lost": lambda db, j, e: leases.lost(db, j, e, "died"),
}
steps = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from(WORKERS)),
    st.tuples(st.just("person"), people),
    st.tuples(st.just("machine"), st.tuples(st.sampled_from(sorted(MACHINES)), claims)),
    st.tuples(st.just("clock"), st.sampled_from([1.0, 31.0])),
    st.tuples(st.just("reap"), st.none()),
)


def take(db: Database, clock: Clock, job_id: str, step) -> str | None:
    """One step; the name of what people asked for, if they got it."""
    kind, what = step
    if kind == "claim":
        leases.claim(db, what, LANE)
    elif kind == "person":
        try:
            what(db, job_id)
        except StateConflict:
            return None
        return what.__name__
    elif kind == "machine":
        name, back = what
        MACHINES[name](db, job_id, max(1, jobs.get(db, job_id).epoch - back))
    elif kind == "clock":
        clock.forward(what)
    else:
        leases.reap(db)
    return None


def check(db: Database, job_id: str) -> None:
    job, attempts = jobs.get(db, job_id), jobs.attempts(db, job_id)
    with db.read() as conn:
        held = conn.execute(select(lease_rows)).all()
    assert [(row.job, row.epoch) for row in held] == ([(job.id, job.epoch)] if job.state in ACTIVE else [])
    assert [a.epoch for a in attempts] == list(range(1, job.epoch + 1))
    unfinished = [a.epoch for a in attempts if a.finished_at is None]
    assert unfinished == ([job.epoch] if job.state in ACTIVE else [])
    successes = [a.epoch for a in attempts if a.outcome is Outcome.SUCCEEDED]
    if job.state is JobState.SUCCEEDED:
        assert job.artifact is not None
        assert [video(job_id, epoch) for epoch in successes] == [job.artifact]
    else:
        assert (successes, job.artifact) == ([], None)
    assert (job.finished_at is not None) == (job.state in FINAL)
    if job.error is not None:
        assert job.state is JobState.FAILED
    told, _ = events.read(db, 0)
    last = [event.data for event in told if event.subject == job_id][-1]
    assert (last["state"], last["epoch"]) == (job.state, job.epoch)


def test_any_order(product, db, clock):
    @settings(
        max_examples=80 if product == "sqlite" else 40,  # a round trip costs more than a function call
        deadline=None,  # no promise about time
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.lists(steps, max_size=25))
    def any_order(walk):
        go(db, clock, walk)

    any_order()


def go(db: Database, clock: Clock, walk) -> None:
    with db.write() as conn:
        for table in reversed(metadata.sorted_tables):
            conn.execute(table.delete())
    for worker in WORKERS:
        register(db, worker)
    job_id = submit_one(db).id
    before = jobs.get(db, job_id)
    for step in walk:
        asked = take(db, clock, job_id, step)
        check(db, job_id)
        now = jobs.get(db, job_id)
        assert now.epoch >= before.epoch
        if before.state in FINAL and asked != "retry":
            assert now == before, "final is final, but for a retry"
        before = now
