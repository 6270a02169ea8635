"""Out of memory: smaller plans first, then larger cards, then a clear end."""

import pytest

from farm.db import jobs, leases, workers
from farm.domain.job import JobError
from farm.domain.states import JobState, Outcome
from farm.domain.worker import NewWorker
from tests.db.conftest import LANE, submit_one

GIB = 2**30
OOM = JobError("out_of_memory", "CUDA out of memory")


def card(db, name: str, gib: int | None) -> str:
    total = None if gib is None else gib * GIB
    workers.register(db, NewWorker(name, "n1", f"gpu-{name}", "Test GPU", 1, memory_total=total))
    return name


def fails(db, worker: str, smallest_plan: int = 1, peak: int | None = None) -> JobState | None:
    given = leases.claim(db, worker, LANE)
    assert given is not None
    assert leases.start(db, given.job, given.epoch)
    return leases.fail(
        db, given.job, given.epoch, Outcome.OUT_OF_MEMORY, OOM, peak_memory=peak, smallest_plan=smallest_plan
    )


def test_each_next_attempt_gets_the_next_smaller_plan_and_nobody_is_blamed(db):
    card(db, "w1", 16)
    job_id = submit_one(db).id
    plans = []
    for _ in range(3):
        given = leases.claim(db, "w1", LANE)
        assert given is not None
        plans.append(given.memory_plan)
        leases.start(db, job_id, given.epoch)
        state = leases.fail(db, job_id, given.epoch, Outcome.OUT_OF_MEMORY, OOM, smallest_plan=2)
    assert plans == [0, 1, 2]
    assert state is JobState.FAILED
    assert jobs.get(db, job_id).failures == 0
    assert [a.blamed for a in jobs.attempts(db, job_id)] == [False] * 3


def test_it_fails_saying_what_it_needed_and_what_the_card_had(db):
    card(db, "w1", 16)
    job_id = submit_one(db).id
    fails(db, "w1")
    assert fails(db, "w1", peak=int(15.5 * GIB)) is JobState.FAILED
    error = jobs.get(db, job_id).error
    assert error is not None
    assert error.code == "out_of_memory"
    assert "more than 15.5 GiB" in error.message
    assert "the card has 16.0 GiB" in error.message
    assert "smaller size" in error.next


def test_where_a_larger_card_lives_it_waits_for_that_one(db):
    card(db, "small", 16)
    card(db, "alike", 16)
    card(db, "unknown", None)
    card(db, "large", 80)
    job_id = submit_one(db).id
    fails(db, "small")
    assert fails(db, "small") is JobState.QUEUED
    assert jobs.get(db, job_id).memory_above == 16 * GIB
    for too_small in ("small", "alike", "unknown"):
        assert leases.claim(db, too_small, LANE) is None
    given = leases.claim(db, "large", LANE)
    assert given is not None
    assert given.memory_plan == 1
    leases.start(db, job_id, given.epoch)
    assert leases.fail(db, job_id, given.epoch, Outcome.OUT_OF_MEMORY, OOM) is JobState.FAILED, "none is larger"


@pytest.mark.parametrize("gone", [True, False])
def test_a_larger_card_that_is_gone_or_lacks_the_weights_is_no_hope(db, gone):
    card(db, "small", 16)
    card(db, "large", 80)
    submit_one(db)
    if gone:
        workers.gone(db, "large")
    else:
        with db.write() as conn:
            conn.exec_driver_sql("UPDATE workers SET available = '{}' WHERE id = 'large'")
    fails(db, "small")
    assert fails(db, "small") is JobState.FAILED


def test_a_retry_begins_with_the_largest_plan_on_any_card(db):
    card(db, "w1", 16)
    job_id = submit_one(db).id
    fails(db, "w1")
    fails(db, "w1")
    jobs.retry(db, job_id)
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    assert given.memory_plan == 0
