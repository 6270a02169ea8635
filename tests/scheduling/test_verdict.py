"""The failure policy, outcome by outcome."""

import pytest

from farm.domain.job import JobError
from farm.domain.states import CANCEL_ACTIVE, FAIL, REQUEUE, Outcome
from farm.scheduling.verdict import verdict

ERROR = JobError("some_code", "needed 21 GB of 16 GB")
FREE = [Outcome.DRAIN, Outcome.PREEMPT, Outcome.RECALL, Outcome.DEPENDENCY]
BLAMED = [Outcome.OUT_OF_MEMORY, Outcome.DEVICE_FAULT, Outcome.LOST]


def decide(outcome, failures=0, running=True, cancel=False, error=ERROR):
    return verdict(outcome, error, failures=failures, running=running, cancel_requested=cancel)


def test_every_outcome_has_a_verdict():
    assert {Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.USER_ERROR, *FREE, *BLAMED} == set(Outcome)


def test_a_user_error_fails_at_once_in_its_own_words():
    said = decide(Outcome.USER_ERROR)
    assert (said.arrow, said.failures, said.error) == (FAIL, 0, ERROR)


@pytest.mark.parametrize("outcome", FREE)
def test_what_is_nobodys_fault_is_requeued_without_blame_for_ever(outcome):
    assert decide(outcome, failures=2) == decide(outcome, failures=2, running=False)
    assert (decide(outcome, failures=2).arrow, decide(outcome, failures=2).failures) == (REQUEUE, 2)


@pytest.mark.parametrize("outcome", BLAMED)
def test_what_may_be_the_jobs_fault_is_tried_three_times(outcome):
    assert [(decide(outcome, n).arrow, decide(outcome, n).failures) for n in range(3)] == [
        (REQUEUE, 1),
        (REQUEUE, 2),
        (FAIL, 3),
    ]


def test_the_last_word_of_a_poison_job_names_the_count_and_the_last_cause():
    error = decide(Outcome.LOST, 2).error
    assert error is not None
    assert error.code == "poison"
    assert error.message.startswith("3 workers failed on this job")
    assert "needed 21 GB" in error.message
    assert error.next


def test_out_of_memory_fails_saying_what_it_needed():
    error = decide(Outcome.OUT_OF_MEMORY, 2).error
    assert error is not None
    assert error.code == "out_of_memory"
    assert "needed 21 GB of 16 GB" in error.message
    assert "smaller size" in error.next


def test_a_worker_lost_before_it_started_blames_nobody():
    assert (
        decide(Outcome.LOST, 2, running=False).arrow,
        decide(Outcome.LOST, 2, running=False).failures,
    ) == (
        REQUEUE,
        2,
    )


@pytest.mark.parametrize("outcome", FREE + BLAMED)
def test_what_was_to_be_cancelled_is_cancelled_and_not_run_again(outcome):
    assert decide(outcome, 2, cancel=True).arrow is CANCEL_ACTIVE


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.CANCELLED])
def test_an_end_that_is_no_failure_has_no_verdict(outcome):
    with pytest.raises(ValueError, match="no failure"):
        decide(outcome)
