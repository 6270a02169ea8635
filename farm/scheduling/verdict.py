"""What becomes of a job whose attempt did not succeed: the failure policy, read from the top down."""

from dataclasses import dataclass

from farm.domain.job import JobError
from farm.domain.states import CANCEL_ACTIVE, FAIL, REQUEUE, Outcome, Transition


@dataclass(frozen=True)
class Verdict:
    """The arrow to take, what `failures` becomes, and what the job then says to people."""

    arrow: Transition
    failures: int
    error: JobError | None


def verdict(
    outcome: Outcome,
    error: JobError,
    *,
    failures: int,
    running: bool,
    cancel_requested: bool,
    crash_cap: int = 3,
) -> Verdict:
    """`failures`: blamed attempts so far; `running`: the attempt had started. Pure."""
    if outcome in {Outcome.SUCCEEDED, Outcome.CANCELLED}:
        raise ValueError(f"{outcome} is no failure")
    if outcome is Outcome.USER_ERROR:
        return Verdict(FAIL, failures, error)
    # Nobody wants it any more: running it again would be work for nothing.
    if cancel_requested:
        return Verdict(CANCEL_ACTIVE, failures, None)
    # A worker that vanished before it started says nothing about the job.
    if not outcome.blames or (outcome is Outcome.LOST and not running):
        return Verdict(REQUEUE, failures, None)
    if failures + 1 < crash_cap:
        return Verdict(REQUEUE, failures + 1, None)
    return Verdict(FAIL, failures + 1, _last_word(outcome, error, failures + 1))


def _last_word(outcome: Outcome, error: JobError, failures: int) -> JobError:
    if outcome is Outcome.OUT_OF_MEMORY:
        return JobError(
            "out_of_memory",
            f"did not fit into the device's memory in {failures} attempts: {error.message}",
            error.next or "ask for fewer frames or a smaller size, or add a card with more memory",
        )
    return JobError(
        "poison",
        f"{failures} workers failed on this job, so it is not tried again; the last one: {error.message}",
        "look at its attempts, then change the job, or retry it if the machines were at fault",
    )
