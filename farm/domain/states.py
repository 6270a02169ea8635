"""The words of the job protocol: states, stages, outcomes, wishes, and the arrows between the states."""

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    HELD = "held"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ACTIVE = frozenset({JobState.LEASED, JobState.RUNNING})
WAITING = frozenset({JobState.SCHEDULED, JobState.QUEUED, JobState.HELD})


class StageName(StrEnum):
    """What a running job is doing, in order."""

    LOADING = "loading"
    TEXT = "text"
    IMAGE = "image"
    DENOISE = "denoise"
    DECODE = "decode"
    ENCODE = "encode"
    UPLOAD = "upload"


class Outcome(StrEnum):
    """How one attempt ended. The class decides what happens to the job."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    USER_ERROR = "user_error"  # fail at once, no retry
    OUT_OF_MEMORY = "out_of_memory"  # retry with a smaller plan or on a larger card, then fail
    DEVICE_FAULT = "device_fault"  # kill the process, retry elsewhere
    LOST = "lost"  # process or node gone, hung, lease expired: blame only a worker whose agent lived
    DRAIN = "drain"  # requeue, no blame
    PREEMPT = "preempt"  # requeue, no blame
    RECALL = "recall"  # prefetched, never started: requeue, no blame
    DEPENDENCY = "dependency"  # storage or database away: requeue, no blame


class After(StrEnum):
    """How a job must have ended before another that waits for it may start."""

    SUCCESS = "success"
    ANY = "any"


class Wish(StrEnum):
    """What an operator wants of a worker; obeyed at its next heartbeat."""

    RUN = "run"
    DRAIN = "drain"
    RESTART = "restart"
    QUARANTINE = "quarantine"


class Order(StrEnum):
    """What a renewal brings back to the worker."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    DRAIN = "drain"
    LOST = "lost"


@dataclass(frozen=True)
class Transition:
    """One arrow of the state diagram; `farm.db` turns it into a guarded UPDATE."""

    event: str
    sources: frozenset[JobState]
    target: JobState


def _arrow(event: str, *sources: JobState, to: JobState) -> Transition:
    return Transition(event, frozenset(sources), to)


DUE = _arrow("due", JobState.SCHEDULED, to=JobState.QUEUED)
CLAIM = _arrow("claim", JobState.QUEUED, to=JobState.LEASED)
START = _arrow("start", JobState.LEASED, to=JobState.RUNNING)
RECALL = _arrow("recall", JobState.LEASED, to=JobState.QUEUED)
# A job that went back to the queue may still be finished at its epoch: nobody has claimed it since.
FINISH = _arrow("finish", JobState.LEASED, JobState.RUNNING, JobState.QUEUED, to=JobState.SUCCEEDED)
FAIL = _arrow("fail", JobState.LEASED, JobState.RUNNING, to=JobState.FAILED)
REQUEUE = _arrow("requeue", JobState.LEASED, JobState.RUNNING, to=JobState.QUEUED)
CANCEL_WAITING = _arrow("cancel", JobState.SCHEDULED, JobState.QUEUED, JobState.HELD, to=JobState.CANCELLED)
CANCEL_ACTIVE = _arrow("cancelled", JobState.LEASED, JobState.RUNNING, to=JobState.CANCELLED)
CANCEL_HOPELESS = _arrow("cancel", JobState.SCHEDULED, to=JobState.CANCELLED)  # what it waited for has failed
HOLD = _arrow("hold", JobState.SCHEDULED, JobState.QUEUED, to=JobState.HELD)
RELEASE = _arrow("release", JobState.HELD, to=JobState.QUEUED)
RETRY = _arrow("retry", JobState.FAILED, JobState.CANCELLED, to=JobState.QUEUED)
# Of a job that waits for another one still.
RELEASE_TO_WAIT = _arrow("release", JobState.HELD, to=JobState.SCHEDULED)
RETRY_TO_WAIT = _arrow("retry", JobState.FAILED, JobState.CANCELLED, to=JobState.SCHEDULED)
