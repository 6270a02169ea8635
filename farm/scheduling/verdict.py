"""What becomes of a job whose attempt did not succeed: the failure policy, read from the top down."""

from dataclasses import dataclass

from farm.domain.job import JobError
from farm.domain.states import CANCEL_ACTIVE, FAIL, REQUEUE, Outcome, Transition

SMALLEST_PLAN = 1  # of models that do not say how far they can shrink: the text encoder waits on the host
FREE_LOSSES = 2  # so often a job that was lost through no fault of its own goes back without a pause
FIRST_REST, LONGEST_REST = 5.0, 600.0  # seconds


@dataclass(frozen=True)
class Attempted:
    """The attempt that ended, and what is known about its job and its worker.

    failures: different workers blamed before; new_to_blame: this worker is none of them.
    agent_lived: the worker died alone, not with its whole node.
    losses: earlier attempts that were lost without blame, since people last asked for the job.
    memory_plan, smallest_plan: of this attempt, and of the model; larger_card: a living worker has one.
    peak, card: bytes that the attempt needed at its highest, and that its device has.
    """

    failures: int = 0
    running: bool = True
    cancel_requested: bool = False
    new_to_blame: bool = True
    agent_lived: bool = True
    losses: int = 0
    memory_plan: int = 0
    smallest_plan: int = SMALLEST_PLAN
    larger_card: bool = False
    peak: int | None = None
    card: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The arrow to take, what `failures` becomes, and what the job then says to people.

    blamed: the attempt counts. rest: seconds until the job may be claimed again. memory_plan: of the next
    attempt. larger_card, elsewhere: the next attempt needs a card with more memory, or another GPU than this.
    """

    arrow: Transition
    failures: int
    error: JobError | None = None
    blamed: bool = False
    rest: float = 0.0
    memory_plan: int = 0
    larger_card: bool = False
    elsewhere: bool = False


def verdict(outcome: Outcome, error: JobError, at: Attempted, crash_cap: int = 3) -> Verdict:
    """Pure. crash_cap: so many different workers may be blamed until the job is poison."""
    if outcome in {Outcome.SUCCEEDED, Outcome.CANCELLED}:
        raise ValueError(f"{outcome} is no failure")
    plan = at.memory_plan
    if outcome is Outcome.USER_ERROR:
        return Verdict(FAIL, at.failures, error, memory_plan=plan)
    # Nobody wants it any more: running it again would be work for nothing.
    if at.cancel_requested:
        return Verdict(CANCEL_ACTIVE, at.failures, memory_plan=plan)
    if outcome is Outcome.OUT_OF_MEMORY:
        return _out_of_memory(error, at)
    if outcome is Outcome.DEVICE_FAULT or (outcome is Outcome.LOST and at.running and at.agent_lived):
        return _blamed(outcome, error, at, crash_cap)
    if outcome is Outcome.LOST:
        # Its worker vanished before it started, or with its whole node: that says nothing about the job.
        return Verdict(REQUEUE, at.failures, memory_plan=plan, rest=rest(at.losses + 1))
    return Verdict(REQUEUE, at.failures, memory_plan=plan)


def rest(losses: int) -> float:
    """Seconds that a job lost so often without blame stays in the queue before somebody gets it again.

    Without blame it never becomes poison, and never stops being tried: but ever more seldom, so that a job
    which takes whole nodes down, or a node that comes and goes, does not eat the farm.
    """
    if losses <= FREE_LOSSES:
        return 0.0
    return min(LONGEST_REST, FIRST_REST * 2.0 ** min(losses - FREE_LOSSES - 1, 32))


def _out_of_memory(error: JobError, at: Attempted) -> Verdict:
    """The size of a job is nobody's fault and no accident: the same plan on the same card would fail again."""
    if at.memory_plan < at.smallest_plan:
        return Verdict(REQUEUE, at.failures, memory_plan=at.memory_plan + 1)
    if at.larger_card:
        return Verdict(REQUEUE, at.failures, memory_plan=at.memory_plan, larger_card=True)
    needed = f"it needed more than {_gib(at.peak)}" if at.peak else error.message.rstrip(".")
    card = f", and the card has {_gib(at.card)}" if at.card else ""
    said = JobError(
        "out_of_memory",
        f"does not fit into the memory of any card here: {needed}{card}",
        error.next or "ask for fewer frames or a smaller size, or add a card with more memory",
    )
    return Verdict(FAIL, at.failures, said, memory_plan=at.memory_plan)


def _blamed(outcome: Outcome, error: JobError, at: Attempted, crash_cap: int) -> Verdict:
    elsewhere = outcome is Outcome.DEVICE_FAULT
    if not at.new_to_blame:
        # One worker that fails on it twice is one witness: only what different workers say makes it poison.
        return Verdict(
            REQUEUE, at.failures, memory_plan=at.memory_plan, rest=rest(at.losses + 1), elsewhere=elsewhere
        )
    failures = at.failures + 1
    if failures < crash_cap:
        return Verdict(REQUEUE, failures, None, blamed=True, memory_plan=at.memory_plan, elsewhere=elsewhere)
    poison = JobError(
        "poison",
        f"{failures} workers failed on this job, so it is not tried again; the last one: {error.message}",
        "look at its attempts, then change the job, or retry it if the machines were at fault",
    )
    return Verdict(FAIL, failures, poison, blamed=True, memory_plan=at.memory_plan, elsewhere=elsewhere)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
