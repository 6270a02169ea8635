"""The page of one job: what it is, what happened to it, what it waits for, and its neighbours in the list."""

from typing import Any

from farm.api.jobs import job_detail
from farm.api.present import Json
from farm.api.services import Services
from farm.db import events, jobs
from farm.domain.job import Job
from farm.domain.states import JobState
from farm.web.words import CHIPS

_COPIED = ("prompt", "model", "size", "frames", "steps", "seed", "guidance", "negative_prompt")


def job_view(farm: Services, job_id: str) -> dict[str, Any]:
    """Raises JobNotFound."""
    cursor = events.latest(farm.db)
    job = job_detail(farm, job_id)
    needs = [(one, jobs.get(farm.db, one["job"])) for one in job["depends_on"]]
    return {
        "cursor": cursor,
        "job": job,
        "stage_names": list(dict.fromkeys(stage for attempt in job["attempts"] for stage in attempt["timings"])),
        "settings": settings_of(job),
        "needs": [(one["after"], _face(needed)) for one, needed in needs],
        "needed_by": [_face(jobs.get(farm.db, one["job"])) for one in job["dependents"][:20]],
        "history": _history(job),
        "newer": _neighbour(farm, job, "asc"),
        "older": _neighbour(farm, job, "desc"),
    }


def settings_of(job: Json) -> Json:
    """What "Copy settings" copies: as the API takes it."""
    said = {name: job[name] for name in _COPIED if job[name] is not None}
    if job["project"] != "default":
        said["project"] = job["project"]
    if job["tags"]:
        said["tags"] = job["tags"]
    return said | ({"image": job["image"]["digest"], "fit": job["image"]["fit"]} if job["image"] else {})


def _face(job: Job) -> Json:
    return {"id": job.id, "prompt": job.spec.prompt, "state": job.state.value}


def _neighbour(farm: Services, job: Json, order: str) -> str | None:
    """The next of those that are shown beside it: videos beside a video, the queue beside what waits."""
    state = JobState(job["state"])
    beside = next(states for states in CHIPS.values() if state in states)
    found, _ = jobs.find(farm.db, states=beside, limit=1, after=job["id"], order=order)
    return found[0].id if found else None


def _history(job: Json) -> list[tuple[str, str, Json]]:
    """(when, which words say it, what they are filled with), oldest first."""
    told: list[tuple[str, str, Json]] = [(job["created_at"], "log_created", {"owner": job["owner"]})]
    for attempt in job["attempts"]:
        who = {"n": attempt["epoch"], "worker": attempt["worker"], "gpu": attempt["gpu"]}
        told.append((attempt["claimed_at"], "log_claimed", who))
        if attempt["started_at"]:
            told.append((attempt["started_at"], "log_started", who))
        if attempt["finished_at"]:
            end = {**who, "outcome": attempt["outcome"], "cause": attempt["cause"] or ""}
            told.append((attempt["finished_at"], "log_ended", end))
    told.sort(key=lambda one: one[0])
    if job["finished_at"]:
        told.append((job["finished_at"], "log_over", {"state": job["state"]}))
    return told
