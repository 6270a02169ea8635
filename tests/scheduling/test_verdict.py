"""The failure policy, outcome by outcome."""

from dataclasses import replace

import pytest

from farm.domain.job import JobError
from farm.domain.states import CANCEL_ACTIVE, FAIL, REQUEUE, Outcome
from farm.scheduling.verdict import LONGEST_REST, Attempted, rest, verdict

ERROR = JobError("some_code", "needed 21 GB of 16 GB")
FREE = [Outcome.DRAIN, Outcome.PREEMPT, Outcome.RECALL, Outcome.DEPENDENCY]
BLAMED = [Outcome.DEVICE_FAULT, Outcome.LOST]


def decide(outcome, error=ERROR, **known):
    return verdict(outcome, error, Attempted(**known))


def test_every_outcome_has_a_verdict():
    ends = {Outcome.SUCCEEDED, Outcome.CANCELLED, Outcome.USER_ERROR, Outcome.OUT_OF_MEMORY}
    assert {*ends, *FREE, *BLAMED} == set(Outcome)


def test_a_user_error_fails_at_once_in_its_own_words():
    said = decide(Outcome.USER_ERROR)
    assert (said.arrow, said.failures, said.error, said.blamed) == (FAIL, 0, ERROR, False)


@pytest.mark.parametrize("outcome", FREE)
def test_what_is_nobodys_fault_is_requeued_at_once_without_blame_for_ever(outcome):
    said = decide(outcome, failures=2, losses=99)
    assert said == decide(outcome, failures=2, losses=99, running=False)
    assert (said.arrow, said.failures, said.blamed, said.rest) == (REQUEUE, 2, False, 0.0)


@pytest.mark.parametrize("outcome", BLAMED)
def test_what_may_be_the_jobs_fault_is_tried_by_three_workers(outcome):
    said = [decide(outcome, failures=n) for n in range(3)]
    assert [(one.arrow, one.failures, one.blamed) for one in said] == [
        (REQUEUE, 1, True),
        (REQUEUE, 2, True),
        (FAIL, 3, True),
    ]


@pytest.mark.parametrize("outcome", BLAMED)
def test_one_worker_is_one_witness_however_often_it_fails(outcome):
    said = decide(outcome, failures=2, new_to_blame=False)
    assert (said.arrow, said.failures, said.blamed) == (REQUEUE, 2, False)


def test_the_last_word_of_a_poison_job_names_the_count_and_the_last_cause():
    error = decide(Outcome.LOST, failures=2).error
    assert error is not None
    assert error.code == "poison"
    assert error.message.startswith("3 workers failed on this job")
    assert "needed 21 GB" in error.message
    assert error.next


@pytest.mark.parametrize("known", [{"running": False}, {"agent_lived": False}])
def test_a_worker_lost_before_it_started_or_with_its_node_blames_nobody(known):
    said = decide(Outcome.LOST, failures=2, **known)
    assert (said.arrow, said.failures, said.blamed) == (REQUEUE, 2, False)


def test_what_is_lost_again_and_again_without_blame_is_tried_ever_more_seldom_but_for_ever():
    rests = [decide(Outcome.LOST, agent_lived=False, losses=n).rest for n in (0, 1, 2, 3, 4, 20, 10_000)]
    assert rests == [0, 0, 5, 10, 20, LONGEST_REST, LONGEST_REST]
    assert rest(3) == 5
    assert decide(Outcome.LOST, agent_lived=False, losses=10_000).arrow is REQUEUE


def test_a_device_fault_goes_elsewhere():
    assert decide(Outcome.DEVICE_FAULT).elsewhere
    assert not decide(Outcome.LOST).elsewhere


def test_out_of_memory_goes_to_the_next_smaller_plan_without_blame():
    said = decide(Outcome.OUT_OF_MEMORY, failures=2, memory_plan=0, smallest_plan=2)
    assert (said.arrow, said.failures, said.memory_plan, said.blamed) == (REQUEUE, 2, 1, False)
    assert decide(Outcome.OUT_OF_MEMORY, memory_plan=1, smallest_plan=2).memory_plan == 2


def test_after_the_smallest_plan_it_goes_to_a_larger_card_if_one_lives():
    said = decide(Outcome.OUT_OF_MEMORY, memory_plan=2, smallest_plan=2, larger_card=True)
    assert (said.arrow, said.memory_plan, said.larger_card) == (REQUEUE, 2, True)


def test_out_of_memory_with_the_smallest_plan_on_the_largest_card_says_what_it_needed():
    known = Attempted(memory_plan=1, smallest_plan=1, peak=21 * 2**30, card=16 * 2**30)
    said = verdict(Outcome.OUT_OF_MEMORY, ERROR, known)
    assert (said.arrow, said.failures) == (FAIL, 0)
    assert said.error is not None
    assert said.error.code == "out_of_memory"
    assert "needed more than 21.0 GiB, and the card has 16.0 GiB" in said.error.message
    assert "smaller size" in said.error.next
    unmeasured = verdict(Outcome.OUT_OF_MEMORY, ERROR, replace(known, peak=None, card=None)).error
    assert unmeasured is not None
    assert "needed 21 GB of 16 GB" in unmeasured.message


@pytest.mark.parametrize("outcome", [*FREE, *BLAMED, Outcome.OUT_OF_MEMORY])
def test_what_was_to_be_cancelled_is_cancelled_and_not_run_again(outcome):
    assert decide(outcome, failures=2, cancel_requested=True).arrow is CANCEL_ACTIVE


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.CANCELLED])
def test_an_end_that_is_no_failure_has_no_verdict(outcome):
    with pytest.raises(ValueError, match="no failure"):
        decide(outcome)
