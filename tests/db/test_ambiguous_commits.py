"""A commit that succeeded but reported failure, and one that really failed: both heal."""

import sqlite3

import psycopg
import pytest

from farm.db import jobs, leases
from farm.domain.errors import DatabaseUnavailable
from farm.domain.job import JobError
from farm.domain.states import JobState, Outcome
from farm.scheduling.quarantine import QuarantinePolicy
from tests.db.conftest import LANE, new_job, register, submit_one, video


@pytest.fixture
def commits(db, product, monkeypatch):
    """commits("lost"): the next commit happens and its answer is lost. commits("refused"): it does not."""

    def disk_error(connection):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        return error

    def cut_off(connection):
        connection.driver_connection.close()
        return psycopg.OperationalError("server closed the connection unexpectedly")

    broken = disk_error if product == "sqlite" else cut_off

    def arm(how: str) -> None:
        dialect = db._engine.dialect
        really = type(dialect).do_commit

        def once(connection):
            monkeypatch.setattr(dialect, "do_commit", lambda c: really(dialect, c))
            if how == "lost":
                really(dialect, connection)
            raise broken(connection)

        monkeypatch.setattr(dialect, "do_commit", once)

    return arm


OOPS = JobError("oops", "it broke")
ENDS = {
    "start": (lambda db, j: leases.start(db, j, 1), True, JobState.RUNNING),
    "recall": (lambda db, j: leases.recall(db, j, 1), True, JobState.QUEUED),
    "finish": (lambda db, j: leases.finish(db, j, 1, video(j, 1), {}), True, JobState.SUCCEEDED),
    "fail": (lambda db, j: leases.fail(db, j, 1, Outcome.USER_ERROR, OOPS), JobState.FAILED, JobState.FAILED),
    "lost": (lambda db, j: leases.lost(db, j, 1, "died"), JobState.QUEUED, JobState.QUEUED),
    "fault": (
        lambda db, j: leases.fail(db, j, 1, Outcome.DEVICE_FAULT, OOPS, quarantine=QuarantinePolicy(faults=1)),
        JobState.QUEUED,
        JobState.QUEUED,
    ),
    "out_of_memory": (
        lambda db, j: leases.fail(db, j, 1, Outcome.OUT_OF_MEMORY, OOPS),
        JobState.QUEUED,
        JobState.QUEUED,
    ),
    "give_back": (lambda db, j: leases.give_back(db, j, 1, Outcome.DRAIN, "d"), True, JobState.QUEUED),
}


def leased(db):
    register(db)
    job = submit_one(db)
    assert leases.claim(db, "w1", LANE)
    return job.id


@pytest.mark.parametrize("act", ENDS)
def test_a_lost_answer_is_read_again_instead_of_acted_on(db, commits, act):
    job_id = leased(db)
    do, answer, state = ENDS[act]
    commits("lost")
    assert do(db, job_id) == answer
    assert jobs.get(db, job_id).state is state


@pytest.mark.parametrize("act", ENDS)
def test_a_commit_that_did_not_happen_is_reported_and_may_be_repeated(db, commits, act):
    job_id = leased(db)
    do, answer, state = ENDS[act]
    commits("refused")
    with pytest.raises(DatabaseUnavailable):
        do(db, job_id)
    assert jobs.get(db, job_id).state is JobState.LEASED
    assert do(db, job_id) == answer
    assert jobs.get(db, job_id).state is state


def test_an_expanded_prompt_whose_answer_was_lost_is_read_again(db, commits):
    job_id = leased(db)
    leases.start(db, job_id, 1)
    commits("lost")
    assert leases.expand(db, job_id, 1, "a red kite, soaring")
    assert jobs.get(db, job_id).expanded_prompt == "a red kite, soaring"


def test_a_wish_to_cancel_that_was_obeyed_is_read_again_too(db, commits):
    job_id = leased(db)
    jobs.cancel(db, job_id)
    commits("lost")
    assert leases.cancelled(db, job_id, 1)


def test_a_claim_whose_answer_was_lost_heals_by_its_lease(db, clock, commits):
    register(db)
    job = submit_one(db)
    commits("lost")
    with pytest.raises(DatabaseUnavailable):
        leases.claim(db, "w1", LANE)
    assert leases.claim(db, "w1", LANE) is None
    clock.forward(31)
    assert leases.reap(db) == [(job.id, 1, JobState.QUEUED)]


def test_a_submission_whose_answer_was_lost_is_found_by_its_key(db, commits):
    commits("lost")
    with pytest.raises(DatabaseUnavailable):
        jobs.submit(db, [new_job(idempotency_key="k")])
    (again,) = jobs.submit(db, [new_job(idempotency_key="k")])
    assert not again.created


def test_a_job_requeued_then_failed_elsewhere_is_not_mistaken_for_ours(db, clock, commits):
    """The re-read is by (id, epoch): what a later claim did is no answer to an earlier one."""
    job_id = leased(db)
    clock.forward(31)
    leases.reap(db)
    assert leases.claim(db, "w1", LANE)
    leases.finish(db, job_id, 2, video(job_id, 2), {})
    assert not leases.finish(db, job_id, 1, video(job_id, 1), {})
    artifact = jobs.get(db, job_id).artifact
    assert artifact == video(job_id, 2)
