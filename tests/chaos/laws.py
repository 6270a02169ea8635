"""What must hold in every state, and between any two: the promises of the job protocol as plain Python."""

from collections.abc import Iterable, Mapping

from farm.domain.states import FINAL, JobState, Outcome
from tests.chaos.expected import blamed_workers
from tests.chaos.snapshot import Snapshot, time_of

UNFINISHED = frozenset({JobState.QUEUED, JobState.LEASED, JobState.RUNNING})  # what makes a lane busy
_FROM: Mapping[JobState, frozenset[JobState]] = {
    JobState.SCHEDULED: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.HELD}),
    # At its epoch a job that was given up may still be delivered: queued, then succeeded.
    JobState.QUEUED: frozenset({JobState.LEASED, JobState.HELD, JobState.CANCELLED, JobState.SUCCEEDED}),
    JobState.HELD: frozenset({JobState.QUEUED, JobState.SCHEDULED, JobState.CANCELLED}),
    JobState.LEASED: frozenset({JobState.RUNNING, JobState.QUEUED, *FINAL}),
    JobState.RUNNING: frozenset({JobState.QUEUED, *FINAL}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED, JobState.SCHEDULED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED, JobState.SCHEDULED}),
}
CRASH_CAP = 3


class Violation(AssertionError):
    """A promise of the protocol was broken."""


def must(holds: object, promise: str) -> None:
    if not holds:
        raise Violation(promise)


def check_state(now: Snapshot, store: Mapping[str, str]) -> None:
    """One moment: claims, leases and attempts tell the same story, and a success has its video.

    `store`: what is complete there, sha256 by key.
    """
    claims: dict[str, list[int]] = {}
    for job, epoch in now.attempts:
        claims.setdefault(job, []).append(epoch)
    for job in now.jobs.values():
        lease = now.leases.get(job.id)
        must((lease is not None) == job.active, f"{job.id} is {job.state}, and its lease is {lease}")
        must(lease is None or lease.epoch == job.epoch, f"{job.id} is leased for another claim than its newest")
        epochs = sorted(claims.get(job.id, []))
        must(epochs == list(range(1, job.epoch + 1)), f"{job.id} has claims {epochs} at epoch {job.epoch}")
        mine = [now.attempts[job.id, epoch] for epoch in epochs]
        unfinished = [attempt.epoch for attempt in mine if attempt.finished_at is None]
        must(
            unfinished == ([job.epoch] if job.active else []),
            f"{job.id} ({job.state}) has open claims {unfinished}",
        )
        won = [attempt.epoch for attempt in mine if attempt.outcome == Outcome.SUCCEEDED]
        must(len(won) <= 1, f"{job.id} succeeded twice, at epochs {won}")
        must(job.final == (job.finished_at is not None), f"{job.id} is {job.state}, finished {job.finished_at}")
        if job.state is JobState.SUCCEEDED:
            must(won == [job.epoch], f"{job.id} succeeded at epoch {job.epoch}, its attempts say {won}")
            must(job.artifact, f"{job.id} succeeded without a video")
            there = store.get(job.artifact["key"])
            must(there == job.artifact["sha256"], f"the video of {job.id} is not the one that won: {there}")
        else:
            must(not won and not job.artifact, f"{job.id} is {job.state} and has a success at {won}")
            witnesses = blamed_workers(now, job)
            must(job.failures == len(witnesses), f"{job.id} counts {job.failures} failures, blamed are {witnesses}")
        if job.state is JobState.FAILED and job.error and job.error["code"] == "poison":
            must(job.failures >= CRASH_CAP, f"{job.id} is poison after {job.failures} workers")
    strange = {lease for lease in now.leases if lease not in now.jobs}
    must(not strange, f"leases of no job: {strange}")


def check_step(before: Snapshot, now: Snapshot, retried: Iterable[str] = (), claimed: int = 0) -> None:
    """Two moments with one call between them. `retried`: jobs that a person asked to run once more.

    `claimed`: how many claims the call may have made.
    """
    gone = before.jobs.keys() - now.jobs.keys()
    must(not gone, f"accepted and lost: {gone}")
    made = 0
    for job in now.jobs.values():
        was = before.jobs.get(job.id)
        if was is None or was == job:
            continue
        must(was.spec == job.spec and was.seq == job.seq, f"the spec of {job.id} has changed")
        must(job.epoch in (was.epoch, was.epoch + 1), f"{job.id} went from epoch {was.epoch} to {job.epoch}")
        must(was.expanded_prompt in (None, job.expanded_prompt), f"the expanded prompt of {job.id} has changed")
        made += job.epoch - was.epoch
        if was.final and job.id not in retried:
            seen = dict.fromkeys(("hidden_at", "idempotency_key"))
            must(was._replace(**seen) == job._replace(**seen), f"final is final: {job.id} was {was}, is {job}")
        if was.state is JobState.SUCCEEDED:
            must(job.state is JobState.SUCCEEDED, f"the success of {job.id} was taken back")
        if was.state is not job.state:
            _check_story(job.id, was.state, now)
    must(made <= claimed, f"{made} claims were made where {claimed} could be")
    for key, attempt in before.attempts.items():
        now_attempt = now.attempts.get(key)
        must(now_attempt is not None, f"the attempt {key} is gone")
        if attempt.finished_at is not None and now_attempt != attempt:
            # Given up, and then it came back with its video: the only account that is ever corrected.
            must(now_attempt and now_attempt.outcome == Outcome.SUCCEEDED, f"a closed attempt was rewritten: {key}")
    must(before.needs == tuple(n for n in now.needs if n.job in before.jobs), "what a job waits for has changed")


def check_paid(before: Snapshot, now: Snapshot) -> None:
    """A lane pays for each claim once: the seconds that it ran. Nobody else pays, but a lane that joins anew."""
    owed: dict[str, float] = {}
    for key, attempt in now.attempts.items():
        was = before.attempts.get(key)
        if was is not None and was.finished_at is None and attempt.finished_at and attempt.started_at:
            seconds = (time_of(attempt.finished_at) - time_of(attempt.started_at)).total_seconds()
            lane = now.jobs[key[0]].lane
            owed[lane] = owed.get(lane, 0.0) + max(0.0, seconds)
    busy = {job.lane for job in before.jobs.values() if job.state in UNFINISHED}
    for name, lane in before.lanes.items():
        paid = now.lanes[name].virtual_time - lane.virtual_time
        must(paid >= 0, f"the lane {name} was given time back")
        must(name not in busy or abs(paid - owed.get(name, 0.0)) < 1e-3, f"{name} owed {owed} and paid {paid}")


def check_woken(before: Snapshot, now: Snapshot) -> None:
    """A lane that was away joins at the minimum of the busy ones: it neither owns the farm nor waits for all."""
    busy = {job.lane for job in before.jobs.values() if job.state in UNFINISHED}
    woken = {job.lane for job in now.jobs.values() if job.state in UNFINISHED} - busy
    for lane in woken:
        peers = [before.lanes[other].virtual_time for other in busy if _class(other) == _class(lane)]
        if peers:
            own = before.lanes[lane].virtual_time if lane in before.lanes else 0.0
            joined = now.lanes[lane].virtual_time
            must(joined >= min(peers), f"{lane} was away and owns the farm: {joined}, the others {peers}")
            must(joined <= max(own, *peers), f"{lane} joins behind everyone: {joined}, the others {peers}")


def _class(lane: str) -> str:
    return lane.split("/")[2]


def _check_story(job: str, state: JobState, now: Snapshot) -> None:
    """The outbox tells every change, in steps that the state diagram has."""
    told = [
        JobState(e.data["state"]) for e in now.news if e.kind == "job" and e.subject == job and "state" in e.data
    ]
    must(told and told[-1] is now.jobs[job].state, f"{job} became {now.jobs[job].state}, the outbox says {told}")
    for following in told:
        must(following is state or following in _FROM[state], f"{job} went from {state} to {following}")
        state = following
