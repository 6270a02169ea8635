"""Why a job is where it is: one true sentence, and what would help. Pure; every state has an answer."""

from farm.domain.job import Dependency, Job, Progress
from farm.domain.states import After, JobState, StageName, Wish
from farm.scheduling.lanes import Reason
from farm.scheduling.obstacles import obstacle
from farm.scheduling.phrases import ago, ahead, begun, span
from farm.scheduling.surroundings import Surroundings


def why(job: Job, seen: Surroundings) -> Reason:
    match job.state:
        case JobState.HELD:
            return Reason("held", "It is held and will not start by itself.", f"let it go: farm release {job.id}")
        case JobState.SCHEDULED:
            return _scheduled(job, seen)
        case JobState.QUEUED:
            return obstacle(job, seen)
        case JobState.LEASED:
            return _leased(job, seen)
        case JobState.RUNNING:
            return _running(job, seen)
        case JobState.SUCCEEDED:
            return Reason(
                "succeeded",
                f"It finished{ago(job.finished_at, seen.now)}, on attempt {job.epoch}.",
                f"get it: farm download {job.id}",
            )
        case JobState.FAILED:
            return _failed(job)
        case JobState.CANCELLED:
            return _cancelled(job, seen)


def _scheduled(job: Job, seen: Surroundings) -> Reason:
    time = job.not_before if job.not_before is not None and job.not_before > seen.now else None
    open_ones = [one for one in seen.depends_on if not one.met]
    if open_ones:
        first = open_ones[0]
        more = f", and for {len(open_ones) - 1} more" if len(open_ones) > 1 else ""
        also = "" if time is None else f" It would not start before {ahead(time, seen.now)}, either."
        return Reason("depends_on", f"It waits for {_wanted(first)}{more}.{also}", f"see: farm why {first.needs}")
    if time is None:
        return Reason("scheduled", "Its time has come; it joins the queue in a moment.")
    return Reason(
        "scheduled",
        f"It waits for {ahead(time, seen.now)}.",
        f"start it now: farm hold {job.id}, then farm release {job.id}",
    )


def _wanted(one: Dependency) -> str:
    state = "" if one.state is None else f", which is {one.state}"
    return f"{one.needs} to {'succeed' if one.after is After.SUCCESS else 'end'}{state}"


def _leased(job: Job, seen: Surroundings) -> Reason:
    name = job.progress.worker if job.progress and job.progress.worker else "A worker"
    if job.cancel_requested_at is not None:
        return Reason("cancelling", f"It is to be cancelled; {name} has it but has not started.")
    holder = next((worker for worker in seen.workers if worker.id == name), None)
    if holder is not None and job.spec.model_digest not in holder.models:
        return Reason("loading", f"{name} has taken it and must load {job.spec.model} first.")
    return Reason("leased", f"{name} has taken it and is about to start.")


def _running(job: Job, seen: Surroundings) -> Reason:
    at = job.progress
    doing = _stage(at) if at else "it has not said where it is"
    name = at.worker if at and at.worker else "A worker"
    if job.cancel_requested_at is not None:
        return Reason(
            "cancelling",
            f"It was asked to stop{ago(job.cancel_requested_at, seen.now)}; "
            f"{name} obeys at its next step ({doing}).",
        )
    if seen.hung is not None:
        return Reason(
            "hung",
            f"{name} hangs: {seen.hung}. Its process is ended, and the job goes back into the queue.",
            f"see how it went: farm show {job.id}",
        )
    holder = next((worker for worker in seen.workers if worker.id == name), None)
    if holder is not None and not seen.is_heard(holder):
        silent = span((seen.now - holder.heartbeat_at).total_seconds())
        return Reason(
            "worker_silent",
            f"{name} has not answered for {silent} ({doing}); unless it does, the job goes back into the queue.",
            f"look at node {holder.node}: farm workers",
        )
    if holder is not None and holder.wish is not Wish.RUN and holder.wish_now:
        return Reason(
            "giving_back",
            f"{name} was asked to {holder.wish} now: it gives the job back at its next step, "
            "and another renders it.",
        )
    if seen.store is not None and at is not None and at.stage is StageName.UPLOAD:
        waits = "Its video is finished and waits for the store."
        return Reason(seen.store.code, f"{waits} {begun(seen.store.sentence)}.", seen.store.help)
    if job.started_at is None:
        return Reason("running", f"{name} renders it: {doing}.")
    seconds = (seen.now - job.started_at).total_seconds()
    return Reason("running", f"{name} has been rendering it for {span(seconds)}: {doing}.")


def _failed(job: Job) -> Reason:
    if job.error is None:
        return Reason("failed", "It failed.", f"run it again: farm retry {job.id}")
    said = job.error.message.rstrip(".")
    return Reason(job.error.code, f"It failed: {said}.", job.error.next or f"run it again: farm retry {job.id}")


def _cancelled(job: Job, seen: Surroundings) -> Reason:
    if job.error is not None:
        said = job.error.message.rstrip(".")
        return Reason(job.error.code, f"It was cancelled: {said}.", job.error.next)
    return Reason(
        "cancelled", f"It was cancelled{ago(job.finished_at, seen.now)}.", f"run it again: farm retry {job.id}"
    )


def _stage(at: Progress) -> str:
    return f"{at.stage}, step {at.k} of {at.n}" if at.n else str(at.stage)
