"""Why a job is where it is: one true sentence, and what would help. Pure; every state has an answer."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from farm.domain.job import Job, Progress
from farm.domain.states import JobState, StageName, Wish
from farm.domain.worker import Worker
from farm.scheduling.lanes import LaneClass, LaneView, Reason

SILENT = 30.0  # seconds without a heartbeat after which a worker is not counted on


def why(
    job: Job,
    position: int | None,
    lanes: Sequence[LaneView],
    workers: Sequence[Worker],
    now: datetime,
    installed: Collection[str] | None = None,
    store: Reason | None = None,
) -> Reason:
    """`position`: jobs of its lane that go first. `installed`: names of the models there are, if known.

    `store`: what is wrong with the store, if anything is.
    """
    match job.state:
        case JobState.HELD:
            return Reason("held", "It is held and will not start by itself.", f"let it go: farm release {job.id}")
        case JobState.SCHEDULED:
            return _scheduled(job, now)
        case JobState.QUEUED:
            return _queued(job, position or 0, lanes, workers, now, installed, store)
        case JobState.LEASED:
            return _leased(job, workers)
        case JobState.RUNNING:
            return _running(job, now, store)
        case JobState.SUCCEEDED:
            return Reason(
                "succeeded",
                f"It finished{_ago(job.finished_at, now)}, on attempt {job.epoch}.",
                f"get it: farm download {job.id}",
            )
        case JobState.FAILED:
            return _failed(job)
        case JobState.CANCELLED:
            return Reason(
                "cancelled",
                f"It was cancelled{_ago(job.finished_at, now)}.",
                f"run it again: farm retry {job.id}",
            )


def _scheduled(job: Job, now: datetime) -> Reason:
    if job.not_before is None or job.not_before <= now:
        return Reason("scheduled", "Its time has come; it joins the queue in a moment.")
    at = job.not_before.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Reason(
        "scheduled",
        f"It waits for {at}, {_span((job.not_before - now).total_seconds())} from now.",
        f"start it now: farm hold {job.id}, then farm release {job.id}",
    )


def _queued(
    job: Job,
    position: int,
    lanes: Sequence[LaneView],
    workers: Sequence[Worker],
    now: datetime,
    installed: Collection[str] | None,
    store: Reason | None,
) -> Reason:
    """What stands in its way, the most lasting obstacle first."""
    if installed is not None and job.spec.model not in installed:
        others = ", ".join(sorted(installed)) or "none"
        return Reason(
            "model_missing",
            f"The weights of {job.spec.model} are not installed on this farm.",
            f"install them, or submit with another model; installed: {others}",
        )
    mine = next((lane for lane in lanes if lane.id == job.lane), None)
    if mine is not None and mine.closed_reason is not None:
        return Reason("lane_closed", f"Its lane {mine.id} is closed: {mine.closed_reason}", "open the lane")
    return (
        _no_worker(workers, now)
        or _no_weights(job, workers, now)
        or _no_store(workers, now, store)
        or _no_turn(job, position, mine, lanes, workers, now)
    )


def _no_worker(workers: Sequence[Worker], now: datetime) -> Reason | None:
    """Why no worker could take any job at all; None if one could, now or later."""
    present = [worker for worker in workers if worker.state != "gone"]
    if not present:
        return Reason(
            "no_worker",
            "No worker is running.",
            "the farm starts one, or a render node joins: farm status, farm doctor",
        )
    heard = [worker for worker in present if _is_heard(worker, now)]
    if not heard:
        last = max(worker.heartbeat_at for worker in present)
        return Reason(
            "workers_silent",
            f"No worker has answered for {_span((now - last).total_seconds())}.",
            "see what they do: farm status",
        )
    willing = [worker for worker in heard if worker.wish is Wish.RUN]
    if not willing:
        wishes = ", ".join(sorted({str(worker.wish) for worker in heard}))
        return Reason("workers_unwilling", f"Every worker is set to {wishes}.", "set one to run")
    if all(worker.state == "starting" for worker in willing):
        many = "The worker is" if len(willing) == 1 else f"All {len(willing)} workers are"
        return Reason("workers_starting", f"{many} still starting and loading a model.")
    return None


def _no_weights(job: Job, workers: Sequence[Worker], now: datetime) -> Reason | None:
    """No worker that could take jobs has the very weights it is pinned to; None if one has."""
    willing = [worker for worker in workers if _is_heard(worker, now) and worker.wish is Wish.RUN]
    here = [worker for worker in willing if worker.state != "gone"]
    if any(worker.renders(job.spec.model_digest) for worker in here):
        return None
    model = job.spec.model
    if any(model in (worker.available or {}) for worker in here):
        return Reason(
            "weights_missing",
            f"No living worker has the weights of {model} that it was accepted with; they have others.",
            f"render it with those: farm rerun {job.id}, then farm cancel {job.id}; or bring the old ones back",
        )
    return Reason(
        "weights_missing",
        f"No living worker has {model}.",
        f"run on a node: farm models pull {model}; or start one that has it",
    )


def _no_store(workers: Sequence[Worker], now: datetime, store: Reason | None) -> Reason | None:
    """While the store is away workers end up waiting with their videos; one that is idle still takes a job."""
    if store is None or any(_is_able(worker, now) and worker.state == "idle" for worker in workers):
        return None
    return Reason(store.code, f"{_begun(store)}: workers that finish wait with their videos.", store.help)


def _no_turn(
    job: Job,
    position: int,
    mine: LaneView | None,
    lanes: Sequence[LaneView],
    workers: Sequence[Worker],
    now: datetime,
) -> Reason:
    able = [worker for worker in workers if _is_able(worker, now) and worker.renders(job.spec.model_digest)]
    idle = [worker for worker in able if worker.state == "idle"]
    again = "" if job.failures == 0 else f" {_count(job.failures, 'attempt')} of it failed before."
    if idle and position == 0:
        resident = any(job.spec.model_digest in worker.models for worker in idle)
        load = "" if resident else f" and loads {job.spec.model} first"
        return Reason("next", f"It is next: an idle worker takes it in a moment{load}.{again}")
    busy = "the only worker is busy" if len(able) == 1 else f"all {len(able)} workers are busy"
    if idle:
        busy = f"{len(idle)} of {len(able)} workers are idle and about to take the first"
    if position:
        verb = "goes" if position == 1 else "go"
        return Reason(
            "behind_others",
            f"{_count(position, 'job')} of its lane {verb} first, and {busy}.{again}",
            "raise its priority, or add workers",
        )
    if mine is not None and mine.cls == LaneClass.BULK:
        rivals = sum(lane.waiting for lane in lanes if lane.cls == LaneClass.INTERACTIVE)
        if rivals:
            verb = "goes" if rivals == 1 else "go"
            return Reason(
                "interactive_first",
                f"{_count(rivals, 'interactive job')} {verb} before all bulk jobs, and {busy}.{again}",
                "add workers, or wait for a quieter hour",
            )
    return Reason("workers_busy", f"It is the next of its lane, but {busy}.{again}", "add workers, or wait")


def _leased(job: Job, workers: Sequence[Worker]) -> Reason:
    name = job.progress.worker if job.progress and job.progress.worker else "A worker"
    if job.cancel_requested_at is not None:
        return Reason("cancelling", f"It is to be cancelled; {name} has it but has not started.")
    holder = next((worker for worker in workers if worker.id == name), None)
    if holder is not None and job.spec.model_digest not in holder.models:
        return Reason("loading", f"{name} has taken it and must load {job.spec.model} first.")
    return Reason("leased", f"{name} has taken it and is about to start.")


def _running(job: Job, now: datetime, store: Reason | None) -> Reason:
    at = job.progress
    doing = _stage(at) if at else "it has not said where it is"
    name = at.worker if at and at.worker else "A worker"
    if job.cancel_requested_at is not None:
        return Reason(
            "cancelling",
            f"It was asked to stop{_ago(job.cancel_requested_at, now)}; {name} obeys at its next step.",
        )
    if store is not None and at is not None and at.stage is StageName.UPLOAD:
        return Reason(store.code, f"Its video is finished and waits for the store. {_begun(store)}.", store.help)
    if job.started_at is None:
        return Reason("running", f"{name} renders it: {doing}.")
    seconds = (now - job.started_at).total_seconds()
    return Reason("running", f"{name} has been rendering it for {_span(seconds)}: {doing}.")


def _failed(job: Job) -> Reason:
    if job.error is None:
        return Reason("failed", "It failed.", f"run it again: farm retry {job.id}")
    said = job.error.message.rstrip(".")
    return Reason(job.error.code, f"It failed: {said}.", job.error.next or f"run it again: farm retry {job.id}")


def _begun(store: Reason) -> str:
    return store.sentence[:1].upper() + store.sentence[1:].rstrip(".")


def _is_heard(worker: Worker, now: datetime) -> bool:
    return (now - worker.heartbeat_at).total_seconds() <= SILENT


def _is_able(worker: Worker, now: datetime) -> bool:
    return worker.state not in {"gone", "starting"} and worker.wish is Wish.RUN and _is_heard(worker, now)


def _stage(at: Progress) -> str:
    return f"{at.stage}, step {at.k} of {at.n}" if at.n else str(at.stage)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return ""
    seconds = (now - moment).total_seconds()
    return " just now" if seconds < 2 else f" {_span(seconds)} ago"


def _span(seconds: float) -> str:
    """A duration as people say it, to the precision they need."""
    seconds = max(0, round(seconds))
    if seconds < 120:
        return _count(seconds, "second")
    if seconds < 7200:
        return _count(round(seconds / 60), "minute")
    return _count(round(seconds / 3600), "hour") if seconds < 172800 else _count(round(seconds / 86400), "day")
