"""After the faults: what does the farm owe? Asked of the database and the store, never of its processes."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from farm.chaos.journal import Accepted, FaultRecord, Journal, Kind
from farm.db import events, jobs, workers
from farm.db.engine import Database
from farm.domain.errors import BrokenVideo, FarmError, JobNotFound
from farm.domain.job import Attempt, Event, Job
from farm.domain.states import FINAL, JobState, Outcome
from farm.media.check import check_video
from farm.storage.store import Store

_NEAR = 20.0  # seconds around an attempt in which a fault may explain its loss


@dataclass
class Audit:
    """Each list names the jobs that broke a promise, and how."""

    lost: list[str] = field(default_factory=list[str])
    doubled: list[str] = field(default_factory=list[str])
    stuck: list[str] = field(default_factory=list[str])
    poisoned_without_blame: list[str] = field(default_factory=list[str])
    overwritten: list[str] = field(default_factory=list[str])
    broken_videos: list[str] = field(default_factory=list[str])
    states: Counter[str] = field(default_factory=Counter[str])
    outcomes: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])  # the codes of failed jobs
    videos: int = 0  # that were decoded and are whole
    requeued: list[float] = field(default_factory=list[float])  # seconds from a worker's death to its job's release
    running_again: list[float] = field(default_factory=list[float])  # and to its next start

    @property
    def violations(self) -> list[str]:
        return [
            f"{name}: {said}"
            for name in ("lost", "doubled", "stuck", "poisoned_without_blame", "overwritten", "broken_videos")
            for said in getattr(self, name)
        ]


def audit(db: Database, store: Store, journal: Journal, crash_cap: int) -> Audit:
    """Raises FarmError only where the database or the store is away."""
    found = Audit(doubled=list(journal.two_for_one_key))
    all_events = _all_events(db)
    _check_outbox(all_events, journal, found)
    pids = {worker.id: worker.pid for worker in workers.find(db, gone_within=float(10**8))}
    everything = _all_jobs(db)
    for one in journal.accepted.values():
        try:
            jobs.get(db, one.job)
        except JobNotFound:
            found.lost.append(f"{one.job} was accepted and is not there")
    keys = Counter((job.batch, job.idempotency_key) for job in everything if job.idempotency_key is not None)
    found.doubled += [f"{count} jobs have the key {key}" for key, count in keys.items() if count > 1]
    with tempfile.TemporaryDirectory() as folder:
        for job in everything:
            attempts = jobs.attempts(db, job.id)
            found.states[job.state] += 1
            found.outcomes.update(a.outcome or "open" for a in attempts)
            _check_job(job, attempts, journal, crash_cap, found)
            _measure(attempts, pids, journal.faults, found)
            if job.state is JobState.SUCCEEDED:
                said = _broken(store, job, journal.accepted.get(job.id), Path(folder))
                found.videos += said is None
                found.broken_videos += [] if said is None else [f"{job.id}: {said}"]
    return found


def _check_job(job: Job, attempts: Sequence[Attempt], journal: Journal, crash_cap: int, found: Audit) -> None:
    if job.state not in FINAL:
        found.stuck.append(f"{job.id} is {job.state} at epoch {job.epoch}")
    won = [a.epoch for a in attempts if a.outcome is Outcome.SUCCEEDED]
    if len(won) > 1 or (won != [] and job.state is not JobState.SUCCEEDED):
        found.doubled.append(f"{job.id} is {job.state} and succeeded at epochs {won}")
    if [a.epoch for a in attempts] != list(range(1, job.epoch + 1)):
        found.lost.append(f"{job.id} has lost the account of some of its {job.epoch} claims")
    in_vain = job.error is not None and job.error.code == "dependency_failed"
    if job.state is JobState.CANCELLED and job.id not in journal.cancelled and not in_vain:
        found.lost.append(f"{job.id} was cancelled, and nobody had asked for it")
    if job.state is JobState.FAILED:
        code = "unknown" if job.error is None else job.error.code
        found.failures[code] += 1
        if code == "poison":
            _check_blame(job, attempts, journal.faults, crash_cap, found)


def _check_blame(
    job: Job, attempts: Sequence[Attempt], faults: Sequence[FaultRecord], crash_cap: int, found: Audit
) -> None:
    """A poisoned job has as many blamed attempts as the cap asks for, and something had happened to each."""
    blamed = [a for a in attempts if a.blamed and a.started_at is not None]
    if len(blamed) < crash_cap or len({a.worker for a in blamed}) < crash_cap:
        found.poisoned_without_blame.append(f"{job.id} failed as poison after {len(blamed)} blamed attempts")
    for attempt in blamed:
        assert attempt.started_at is not None
        begin = attempt.started_at.timestamp() - _NEAR
        end = (attempt.finished_at or attempt.started_at).timestamp() + _NEAR
        if not any(fault.at < end and fault.until > begin for fault in faults):
            found.poisoned_without_blame.append(f"{job.id}: nothing had happened near attempt {attempt.epoch}")


def _check_outbox(told: Iterable[Event], journal: Journal, found: Audit) -> None:
    """No final state was ever left, but by a retry that somebody asked for; nothing succeeded twice."""
    state: dict[str, str] = {}
    successes: Counter[str] = Counter()
    finals = {final.value for final in FINAL}
    for event in told:
        if event.kind != "job" or "state" not in event.data:
            continue
        job, was, now = event.subject, state.get(event.subject), event.data["state"]
        state[job] = now
        if was == now:
            continue
        successes[job] += now == JobState.SUCCEEDED
        if was in finals and not (job in journal.retried and was != JobState.SUCCEEDED):
            found.overwritten.append(f"{job} was {was} and became {now}")
    found.doubled += [f"{job} became succeeded {n} times" for job, n in successes.items() if n > 1]


def _broken(store: Store, job: Job, asked: Accepted | None, folder: Path) -> str | None:
    """What is wrong with its video; None: it is whole, and the one that was asked for."""
    artifact = job.artifact
    if artifact is None:
        return "succeeded without a video"
    path = folder / "video.mp4"
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for chunk in store.open(artifact.key):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != artifact.sha256:
            return f"the store's bytes are {digest.hexdigest()[:12]}, the database says {artifact.sha256[:12]}"
        frames, size = (
            (job.spec.frames, (job.spec.width, job.spec.height)) if asked is None else (asked.frames, asked.size)
        )
        check_video(path, frames, size)
    except BrokenVideo as error:
        return error.message
    except FarmError as error:
        return f"it cannot be read: {error.message}"
    return None


def _measure(
    attempts: Sequence[Attempt], pids: dict[str, int], faults: Sequence[FaultRecord], found: Audit
) -> None:
    """From the kill of a worker to the release of its job, and to its job's next start."""
    for attempt, following in zip(attempts, [*attempts[1:], None], strict=False):
        if attempt.outcome is not Outcome.LOST or attempt.finished_at is None:
            continue
        ended = attempt.finished_at.timestamp()
        kills = [
            fault.at for fault in faults
            if fault.kind is Kind.KILL and fault.target == "worker" and fault.pids[0] == pids.get(attempt.worker)
            and attempt.claimed_at.timestamp() <= fault.at <= ended + 1
        ]  # fmt: skip
        if kills:
            found.requeued.append(max(0.0, ended - kills[-1]))
            if following is not None and following.started_at is not None:
                found.running_again.append(following.started_at.timestamp() - kills[-1])


def summary(seconds: Sequence[float]) -> str:
    """ "0.90 s (at most 2.10, of 12)" """
    if not seconds:
        return "not seen"
    return f"{median(seconds):.2f} s (at most {max(seconds):.2f}, of {len(seconds)})"


def _all_jobs(db: Database) -> list[Job]:
    found: list[Job] = []
    after: str | None = None
    while True:
        page, after = jobs.find(db, limit=500, after=after, order="asc")
        found += page
        if after is None:
            return found


def _all_events(db: Database) -> list[Event]:
    found: list[Event] = []
    while True:
        page, _ = events.read(db, found[-1].id if found else 0, limit=2000)
        if not page:
            return found
        found += page
