"""What stands in a queued job's way, the most lasting obstacle first."""

from farm.domain.job import Job
from farm.domain.states import Wish
from farm.domain.worker import Quarantine, Worker
from farm.scheduling.lanes import LaneClass, LaneView, Reason
from farm.scheduling.phrases import ahead, at, begun, count, gib, listed, span
from farm.scheduling.surroundings import Surroundings, fits, lacks


def obstacle(job: Job, seen: Surroundings) -> Reason:
    mine = next((lane for lane in seen.lanes if lane.id == job.lane), None)
    return (
        _no_model(job, seen)
        or _closed(mine, seen)
        or _nobody(seen)
        or _resting(job, seen)
        or _no_weights(job, seen)
        or _not_met(job, seen)
        or _unwilling(job, seen)
        or _starting(job, seen)
        or _no_store(job, seen)
        or _no_turn(job, mine, seen)
    )


def _no_model(job: Job, seen: Surroundings) -> Reason | None:
    if seen.installed is None or job.spec.model in seen.installed:
        return None
    others = ", ".join(sorted(seen.installed)) or "none"
    return Reason(
        "model_missing",
        f"The weights of {job.spec.model} are not installed on this farm.",
        f"install them, or submit with another model; installed: {others}",
    )


def _closed(mine: LaneView | None, seen: Surroundings) -> Reason | None:
    if mine is None or mine.closed_reason is None:
        return None
    if mine.open_until is not None and mine.open_until <= seen.now:
        return Reason(
            "lane_closed",
            f"Its lane {mine.id} was open until {at(mine.open_until)} and takes no more jobs.",
            "wait for its next window, or open the lane",
        )
    return Reason(
        "lane_closed", f"Its lane {mine.id} is closed: {mine.closed_reason.rstrip('.')}.", "open the lane"
    )


def _nobody(seen: Surroundings) -> Reason | None:
    """Nobody is there who could take any job at all."""
    if not seen.present and seen.quarantines:  # whose workers have been ended
        kept = listed([_aside(held, seen) for held in seen.quarantines])
        gpus = "a GPU is" if len(seen.quarantines) == 1 else f"{len(seen.quarantines)} GPUs are"
        release = listed([f"farm workers release {held.gpu}" for held in seen.quarantines], 2)
        return Reason("quarantined", f"No worker is running, and {gpus} in quarantine: {kept}.", release)
    if not seen.present:
        return Reason(
            "no_worker",
            "No worker is running.",
            "the farm starts one, or a render node joins: farm status, farm doctor",
        )
    if not seen.heard:
        last = max(worker.heartbeat_at for worker in seen.present)
        silent = span((seen.now - last).total_seconds())
        return Reason("workers_silent", f"No worker has answered for {silent}.", "see what they do: farm workers")
    return None


def _resting(job: Job, seen: Surroundings) -> Reason | None:
    if job.rest_until is None or job.rest_until <= seen.now:
        return None
    return Reason(
        "resting",
        f"Its workers vanished again and again, so nobody gets it before {ahead(job.rest_until, seen.now)}.",
        f"see how it went: farm show {job.id}; start it now: farm hold {job.id}, then farm release {job.id}",
    )


def _no_weights(job: Job, seen: Surroundings) -> Reason | None:
    """No living worker has the very weights it is pinned to."""
    if any(worker.renders(job.spec.model_digest) for worker in seen.heard):
        return None
    model = job.spec.model
    if any(model in (worker.available or {}) for worker in seen.heard):
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


def _not_met(job: Job, seen: Surroundings) -> Reason | None:
    """Nobody has what it requires. The one that comes closest is named."""
    here = [worker for worker in seen.heard if worker.renders(job.spec.model_digest)]
    if any(fits(job, worker) for worker in here):
        return None
    closest = min(here, key=lambda worker: (len(lacks(job, worker)), worker.id))
    missing = ", ".join(lacks(job, closest))
    if job.memory_above is not None and all(len(lacks(job, worker)) == 1 for worker in here):
        largest = max(worker.memory_total or 0 for worker in here)
        has = f"the largest here has {gib(largest)}" if largest else "no worker says that it has more"
        return Reason(
            "too_large",
            f"It did not fit into {gib(job.memory_above)} even with the smallest memory plan, and {has}.",
            "add a card with more memory, or render fewer frames or a smaller size",
        )
    return Reason(
        "requires",
        "No living worker has all that it requires; "
        f"{closest.id} on {closest.node} comes closest and lacks {missing}.",
        f"start a worker with {missing}, or submit it anew with fewer requirements",
    )


def _unwilling(job: Job, seen: Surroundings) -> Reason | None:
    """Everybody who could do it is kept from taking jobs: by whom, until when."""
    here = [worker for worker in seen.heard if fits(job, worker)]
    if any(seen.is_willing(worker) for worker in here):
        return None
    who = "The only worker that could render it is" if len(here) == 1 else f"All {len(here)} workers that could are"
    if all(seen.quarantine_of(worker) for worker in here):
        code, said = "quarantined", f"{who} on a GPU in quarantine"
    else:
        code, said = "workers_unwilling", f"{who} kept from taking jobs"
    kept = listed([_kept(worker, seen) for worker in here])
    return Reason(code, f"{said}: {kept}.", listed(list(dict.fromkeys(_help(worker, seen) for worker in here)), 2))


def _kept(worker: Worker, seen: Surroundings) -> str:
    held = seen.quarantine_of(worker)
    if held is None:
        of = f"all of node {worker.node}" if worker.wish_of_node else worker.id
        why = f" ({worker.wish_reason.rstrip('.')})" if worker.wish_reason else ""
        return f"{of} is set to {worker.wish}{why}"
    return _aside(held, seen)


def _aside(held: Quarantine, seen: Surroundings) -> str:
    why = f"({held.reason.rstrip('.')})"
    if held.until is None:
        return f"{held.gpu} until somebody releases it {why}"
    if held.until <= seen.now:
        return f"{held.gpu} is about to be probed {why}"
    return f"{held.gpu} until {at(held.until)}, then a probe decides {why}"


def _help(worker: Worker, seen: Surroundings) -> str:
    if seen.quarantine_of(worker) is not None:
        return f"farm workers release {worker.gpu}"
    if worker.wish is Wish.RESTART:
        return "wait for its new process"
    return f"farm workers resume {f'--node {worker.node}' if worker.wish_of_node else worker.id}"


def _starting(job: Job, seen: Surroundings) -> Reason | None:
    willing = [worker for worker in seen.heard if seen.is_willing(worker) and fits(job, worker)]
    if not all(worker.state == "starting" for worker in willing):
        return None
    many = "The worker is" if len(willing) == 1 else f"All {len(willing)} workers are"
    return Reason("workers_starting", f"{many} still starting and loading a model.")


def _no_store(job: Job, seen: Surroundings) -> Reason | None:
    """While the store is away workers end up waiting with their videos; one that is idle still takes a job."""
    if seen.store is None or any(worker.state == "idle" for worker in seen.able(job)):
        return None
    return Reason(
        seen.store.code,
        f"{begun(seen.store.sentence)}: workers that finish wait with their videos.",
        seen.store.help,
    )


def _no_turn(job: Job, mine: LaneView | None, seen: Surroundings) -> Reason:
    able = seen.able(job)
    idle = [worker for worker in able if worker.state == "idle"]
    again = _history(job)
    if idle and seen.position == 0:
        resident = any(job.spec.model_digest in worker.models for worker in idle)
        load = "" if resident else f" and loads {job.spec.model} first"
        return Reason("next", f"It is next: an idle worker takes it in a moment{load}.{again}")
    busy = "the only worker is busy" if len(able) == 1 else f"all {len(able)} workers are busy"
    if idle:
        busy = f"{len(idle)} of {len(able)} workers are idle and about to take the first"
    avoided = [worker for worker in seen.heard if worker.gpu in job.avoid and worker not in able]
    if not idle and any(worker.state == "idle" and seen.is_willing(worker) for worker in avoided):
        busy = busy.replace("worker", "other worker", 1)
        gpus = " and ".join(sorted({worker.gpu for worker in avoided}))
        return Reason(
            "gpu_avoided",
            f"It met a device fault on {gpus} and is not tried there again while others could do it; "
            f"{busy}.{again}",
            "wait for one of them, or add workers",
        )
    if seen.position:
        verb = "goes" if seen.position == 1 else "go"
        return Reason(
            "behind_others",
            f"{count(seen.position, 'job')} of its lane {verb} first, and {busy}.{again}",
            "raise its priority, or add workers",
        )
    if mine is not None and mine.cls == LaneClass.BULK:
        rivals = sum(lane.waiting for lane in seen.lanes if lane.cls == LaneClass.INTERACTIVE)
        if rivals:
            verb = "goes" if rivals == 1 else "go"
            return Reason(
                "interactive_first",
                f"{count(rivals, 'interactive job')} {verb} before all bulk jobs, and {busy}.{again}",
                "add workers, or wait for a quieter hour",
            )
    return Reason("workers_busy", f"It is the next of its lane, but {busy}.{again}", "add workers, or wait")


def _history(job: Job) -> str:
    said = "" if job.failures == 0 else f" {count(job.failures, 'attempt')} of it failed before."
    if job.memory_plan:
        said += " It did not fit into a card's memory: its next attempt keeps less there."
    return said
