"""What each call of the protocol must answer, worked out from the tables in plain Python and never in SQL."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from farm.db import jobs
from farm.db.leases import MOST_LEASES
from farm.domain.errors import JobNotFound, StateConflict
from farm.domain.job import Assignment
from farm.domain.states import ACTIVE, FINAL, After, JobState, Order, Outcome, Wish
from tests.chaos.snapshot import JobRow, LeaseRow, Snapshot, WorkerRow, time_of

HEARD_WITHIN = timedelta(seconds=30)


def head(now: Snapshot, moment: datetime, worker: str, lane: str) -> str | None:
    """The job that a claim of this worker from this lane must get; None: nothing."""
    me = now.workers[worker]
    held = sum(lease.worker == worker for lease in now.leases.values())
    if now.lanes[lane].closed_reason or not willing(now, me) or held >= MOST_LEASES:
        return None
    queued = [
        job for job in now.jobs.values()
        if job.state is JobState.QUEUED and job.lane == lane and _rested(job, moment)
        and not _kept_from(now, moment, job, me)
    ]  # fmt: skip
    return min(queued, key=lambda job: (-job.priority, job.seq)).id if queued else None


def turn(now: Snapshot, moment: datetime, worker: str) -> str | None:
    """The lane that is next for this worker; None: none has a job for it. At equal weights, as all are here."""
    ready = [lane for lane in now.lanes if head(now, moment, worker, lane) is not None]
    running = Counter(job.lane for job in now.jobs.values() if job.state in ACTIVE)
    # People who wait go before bulk, then who has had least, and who has least in hand.
    return min(
        ready,
        key=lambda lane: ("/bulk/" in lane, now.lanes[lane].virtual_time, running[lane], lane),
        default=None,
    )


def willing(now: Snapshot, worker: WorkerRow) -> bool:
    """It lives, nobody wishes otherwise of it or of its node, and its GPU is in no quarantine."""
    node = now.nodes.get(worker.node)
    aside = now.quarantines.get(worker.gpu)
    return (
        worker.wish == Wish.RUN
        and worker.ended_at is None
        and worker.state != "gone"
        and (node is None or node.wish in (None, Wish.RUN))
        and (aside is None or aside.released_at is not None)
    )


def _rested(job: JobRow, moment: datetime) -> bool:
    return job.rest_until is None or time_of(job.rest_until) <= moment


def _kept_from(now: Snapshot, moment: datetime, job: JobRow, me: WorkerRow) -> bool:
    """It faulted on this GPU, and another that could do it is there."""
    avoid = job.avoid or []
    return me.gpu in avoid and any(
        other.gpu not in avoid and willing(now, other) and time_of(other.heartbeat_at) > moment - HEARD_WITHIN
        for other in now.workers.values()
    )


def order(now: Snapshot, assignment: Assignment) -> Order:
    """What a renewal brings back."""
    lease = now.leases.get(assignment.job)
    if lease is None or lease.epoch != assignment.epoch:
        return Order.LOST
    if now.jobs[assignment.job].cancelling:
        return Order.CANCEL
    me = now.workers[assignment.worker]
    node = now.nodes.get(me.node)
    of_node = node is not None and node.wish not in (None, Wish.RUN) and node.wish_now
    return Order.DRAIN if of_node or (me.wish != Wish.RUN and me.wish_now) else Order.CONTINUE


def overdue(now: Snapshot, moment: datetime) -> dict[tuple[str, int], LeaseRow]:
    return {(x.job, x.epoch): x for x in now.leases.values() if time_of(x.expires_at) < moment}


def agent_lived(now: Snapshot, lease: LeaseRow) -> bool:
    """The agent was heard when half of the lease had passed since its last renewal."""
    node = now.nodes.get(now.workers[lease.worker].node)
    if node is None or node.heartbeat_at is None:
        return False
    renewed, expires = time_of(lease.renewed_at), time_of(lease.expires_at)
    return time_of(node.heartbeat_at) >= renewed + (expires - renewed) / 2


def blames(now: Snapshot, job: JobRow, epoch: int, outcome: Outcome, lived: bool) -> bool:
    """Whether this end of the claim counts towards poison: a worker of its own that failed, and no other reason."""
    if job.cancelling:
        return False
    at_fault = outcome is Outcome.DEVICE_FAULT or (
        outcome is Outcome.LOST and job.state is JobState.RUNNING and lived
    )
    return at_fault and now.attempts[job.id, epoch].worker not in blamed_workers(now, job)


def blamed_workers(now: Snapshot, job: JobRow) -> set[str]:
    return {a.worker for a in now.attempts.values() if a.job == job.id and a.blamed and a.epoch > job.pardoned}


# -- what waits --------------------------------------------------------------------------------------


def met(states: dict[str, JobState], now: Snapshot, job: str) -> bool:
    return all(
        states[need.needs] is JobState.SUCCEEDED or (need.mode == After.ANY and states[need.needs] in FINAL)
        for need in now.needs
        if need.job == job
    )


def hopeless(states: dict[str, JobState], now: Snapshot, job: str) -> bool:
    ended = {JobState.FAILED, JobState.CANCELLED}
    return any(n.job == job and n.mode == After.SUCCESS and states[n.needs] in ended for n in now.needs)


def due(now: Snapshot, moment: datetime) -> tuple[set[str], set[str]]:
    """The jobs that are to be queued, and those that are to be cancelled: what they wait for cannot come."""
    states = {job.id: job.state for job in now.jobs.values()}
    scheduled = {job.id for job in now.jobs.values() if job.state is JobState.SCHEDULED}
    cancelled: set[str] = set()
    while more := {job for job in scheduled - cancelled if hopeless(states, now, job)}:
        cancelled |= more
        states.update(dict.fromkeys(more, JobState.CANCELLED))
    ready = {
        job for job in scheduled - cancelled
        if met(states, now, job)
        and (now.jobs[job].not_before is None or time_of(now.jobs[job].not_before) <= moment)
    }  # fmt: skip
    return ready, cancelled


# -- people ------------------------------------------------------------------------------------------

_FROM: dict[Any, frozenset[JobState]] = {
    jobs.cancel: frozenset(JobState) - {JobState.SUCCEEDED, JobState.FAILED},
    jobs.hold: frozenset({JobState.SCHEDULED, JobState.QUEUED}),
    jobs.release: frozenset({JobState.HELD}),
    jobs.retry: frozenset({JobState.FAILED, JobState.CANCELLED}),
    jobs.hide: FINAL,
    jobs.set_priority: frozenset({JobState.SCHEDULED, JobState.QUEUED, JobState.HELD}),
}


def refusal(ask: Callable[..., Any], now: Snapshot, job: JobRow) -> type[Exception] | None:
    """None: it must be done."""
    if job.hidden_at:
        return JobNotFound
    if ask is jobs.hide and job.cancelling:
        return None
    if job.state not in _FROM[ask]:
        return StateConflict
    states = {other.id: other.state for other in now.jobs.values()}
    if ask in (jobs.release, jobs.retry) and hopeless(states, now, job.id):
        return StateConflict
    return None
