"""The queue and the gallery: what is asked to be seen, the jobs that fit it, and the addresses of other views."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from fastapi import Request

from farm.api.jobs import parse_tag
from farm.api.models import model_json
from farm.api.present import Json, job_json
from farm.api.services import Services
from farm.api.workers import worker_list
from farm.db import events, jobs
from farm.domain.job import Job
from farm.domain.states import FINAL, JobState
from farm.web.render import spoken
from farm.web.words import CHIPS
from farm.web.words.ideas import ideas

VIDEOS = 24  # of a page of the gallery
ROWS = 100  # jobs of a page of the list
GLANCE = 12  # jobs of the list where the gallery is below it
UNHAPPY = 4  # that ended without a video, where the gallery is below

_RANK = {state: rank for rank, state in enumerate(
    (JobState.RUNNING, JobState.LEASED, JobState.QUEUED, JobState.SCHEDULED, JobState.HELD,
     JobState.FAILED, JobState.CANCELLED, JobState.SUCCEEDED)
)}  # fmt: skip
_LABELS = ("model", "owner", "project", "tag")

# What the script clones and fills for a job that the server has not drawn.
_BLANK: Json = {
    "id": "", "state": "queued", "prompt": "", "epoch": 0, "percent": 0, "width": 0, "height": 0, "seed": "",
    "progress": None, "error": None, "artifact": None, "created_at": None, "finished_at": None,
    "model": "", "owner": "", "video_removed_at": None,
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """What the address asks for. Everything empty: all jobs, from the newest. `after`: the cursor of a page."""

    state: str = ""
    q: str = ""
    model: str = ""
    owner: str = ""
    project: str = ""
    tag: str = ""
    after: str = ""

    @classmethod
    def of(cls, request: Request) -> "View":
        said = {name: request.query_params.get(name, "").strip()[:200] for name in cls.__dataclass_fields__}
        return replace(cls(**said), state=said["state"] if said["state"] in CHIPS else "")

    @property
    def states(self) -> tuple[JobState, ...]:
        return CHIPS[self.state] if self.state else tuple(JobState)

    @property
    def filter(self) -> dict[str, Any]:
        """All of it but the states and the page, as the database's lists take it."""
        same = {name: getattr(self, name) or None for name in ("model", "owner", "project")}
        return {**same, "tag": parse_tag(self.tag), "search": self.q or None}

    @property
    def labels(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in _LABELS if getattr(self, name)}

    def address(self, **changes: str) -> str:
        """Of this view with changes, from its first page."""
        seen = replace(self, **{"after": "", **changes})
        query = {name: getattr(seen, name) for name in self.__dataclass_fields__ if getattr(seen, name)}
        return f"/?{urlencode(query)}" if query else "/"


def queue_view(farm: Services, request: Request, view: View) -> dict[str, Any]:
    """Everything that home.html draws but the form's own state."""
    cursor = events.latest(farm.db)  # before the jobs are read: what happens meanwhile is told by the stream
    counts = jobs.counts(farm.db, **view.filter)
    rows, more, later = _rows(farm, view, counts)
    videos, older = _videos(farm, view)
    next_page = later or older
    known = jobs.labels(farm.db)
    models = [model_json(preset, farm.models) for preset in farm.models.installed.values()]
    return {
        "cursor": cursor,
        "view": view,
        "chips": [
            (name, CHIPS[name] if name else (), sum(counts[s] for s in states), view.address(state=name))
            for name, states in {"": tuple(JobState), **CHIPS}.items()
        ],
        "groups": {name: [s.value for s in states] for name, states in CHIPS.items()},
        "choices": _choices(view, {
            "model": known.models, "owner": known.owners, "project": known.projects,
            "tag": tuple(f"{key}={value}" for key, value in known.tags),
        }),
        "several": {"model": len(known.models) > 1, "owner": len(known.owners) > 1},
        "full": GLANCE if not view.state else ROWS,
        "rows": [job_json(job) for job in rows],
        "more": more,
        "waiting": view.address(state="queued"),
        "videos": [job_json(job) for job in videos],
        "next_page": view.address(after=next_page) if next_page else None,
        "workers": worker_list(farm),
        "models": sorted(models, key=lambda m: not m["default"]),
        "ideas": ideas(spoken(request)),
        "blank": _BLANK,
    }  # fmt: skip


def _choices(view: View, known: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Of each label its values, where there is something to choose."""
    found: dict[str, list[str]] = {}
    for name, values in known.items():
        chosen = getattr(view, name)
        if chosen and chosen not in values:
            values = (*values, chosen)
        if len(values) > 1 or chosen or (values and name == "tag"):
            found[name] = list(values)
    return found


def _videos(farm: Services, view: View) -> tuple[list[Job], str | None]:
    if JobState.SUCCEEDED not in view.states:
        return [], None
    return jobs.find(farm.db, states=[JobState.SUCCEEDED], limit=VIDEOS, after=view.after or None, **view.filter)


def _rows(farm: Services, view: View, counts: dict[JobState, int]) -> tuple[list[Job], int, str | None]:
    """The list above the gallery, how many more wait, and the cursor of its next page.

    What is not finished, then the latest that ended without a video. With a chip of its own: that, in pages.
    """
    unfinished = [state for state in view.states if not state.final]
    ended = [state for state in view.states if state in FINAL and state is not JobState.SUCCEEDED]
    if view.state:
        order = "asc" if unfinished else "desc"
        found, later = jobs.find(
            farm.db, states=unfinished or ended, limit=ROWS, after=view.after or None, order=order, **view.filter
        ) if unfinished or ended else ([], None)  # fmt: skip
        return sorted(found, key=_first), 0, later
    if view.after:
        return [], 0, None  # an older page of the gallery
    active = [JobState.RUNNING, JobState.LEASED]
    found, _ = jobs.find(farm.db, states=active, limit=GLANCE, order="asc", **view.filter)
    waiting = [state for state in unfinished if state not in active]
    next_ones, _ = jobs.find(farm.db, states=waiting, limit=GLANCE, order="asc", **view.filter)
    unhappy, _ = jobs.find(farm.db, states=ended, limit=UNHAPPY, **view.filter)
    more = max(sum(counts[state] for state in waiting) - GLANCE, 0)
    return sorted([*found, *next_ones], key=_first) + unhappy, more, None


def _first(job: Job) -> tuple[int, int]:
    return _RANK[job.state], -job.priority
