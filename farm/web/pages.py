"""The page: queue and gallery, one job, and the forms behind their buttons (they work without the script)."""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from farm.api.body import Body
from farm.api.jobs import accept, again, job_detail
from farm.api.models import model_json
from farm.api.present import Json, job_json
from farm.api.services import Farm, Services
from farm.api.workers import worker_list
from farm.db import events, jobs
from farm.db.engine import Database
from farm.domain.errors import FarmError
from farm.domain.job import Job
from farm.domain.states import FINAL, JobState
from farm.web.render import STATIC, page, spoken
from farm.web.words import CHIPS
from farm.web.words.ideas import ideas
from farm.web.workers import NoSuchButton, wish_from_form, workers_view

router = APIRouter(include_in_schema=False)

PAGE = 24  # videos of a page of the gallery
ROWS = 60  # jobs of the list before "and N more"

_UNFINISHED = [state for state in JobState if not state.final]
_RANK = {state: rank for rank, state in enumerate(
    (JobState.RUNNING, JobState.LEASED, JobState.QUEUED, JobState.SCHEDULED, JobState.HELD,
     JobState.FAILED, JobState.CANCELLED, JobState.SUCCEEDED)
)}  # fmt: skip


# What the script clones and fills for a job that the server has not drawn.
_BLANK: Json = {
    "id": "", "state": "queued", "prompt": "", "epoch": 0, "percent": 0, "width": 0, "height": 0, "seed": "",
    "progress": None, "error": None, "artifact": None, "created_at": None, "finished_at": None,
}  # fmt: skip


class _Immutable(StaticFiles):
    """The first part of an address is the version of all of them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        # The version is for the browser alone; what was drawn by an older server finds the present file.
        response = await super().get_response(path.partition("/")[2], scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def install(app: FastAPI) -> None:
    app.include_router(router)
    app.mount("/static", _Immutable(directory=STATIC), name="static")


@router.get("/", response_class=HTMLResponse)
def home(
    farm: Farm,
    request: Request,
    state: str = "",
    q: Annotated[str, Query(max_length=200)] = "",
    after: str | None = None,
) -> Response:
    return _home(farm, request, state if state in CHIPS else "", q.strip(), after)


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(farm: Farm, request: Request, job_id: str) -> Response:
    cursor = events.latest(farm.db)
    job = job_detail(farm, job_id)
    stages = list(dict.fromkeys(stage for attempt in job["attempts"] for stage in attempt["timings"]))
    context = {"job": job, "stage_names": stages, "cursor": cursor, "settings": _settings(job)}
    return page(request, "job.html", context)


@router.get("/workers", response_class=HTMLResponse)
def workers_page(farm: Farm, request: Request) -> Response:
    return page(request, "workers.html", workers_view(farm, spoken(request)))


@router.post("/submit")
def submit(farm: Farm, request: Request, body: Body) -> Response:
    """The form without the script: back to the page, or the page with what is wrong."""
    try:
        jobs.submit(farm.db, [accept(farm, body)])
    except FarmError as error:
        # A file cannot be put back into a form; its field is empty again.
        shown = {name: value for name, value in body.items() if isinstance(value, str)}
        return _home(farm, request, "", "", None, wish=shown, error=error)
    farm.poke()
    return RedirectResponse("/", 303)


@router.post("/jobs/{job_id}/{verb}")
def act(farm: Farm, job_id: str, verb: str) -> Response:
    moves: dict[str, Callable[[Database, str], Job]] = {
        "cancel": jobs.cancel, "hold": jobs.hold, "release": jobs.release, "retry": jobs.retry,
    }  # fmt: skip
    if verb in moves:
        job_id = moves[verb](farm.db, job_id).id
    elif verb in {"rerun", "reseed"}:
        wish = again(farm, job_id, {"seed": None} if verb == "reseed" else {})
        job_id = jobs.submit(farm.db, [wish])[0].job.id
    else:
        raise NoSuchButton(f"nothing is called {verb!r} here", "go back and use the buttons")
    farm.poke()
    return RedirectResponse(f"/jobs/{job_id}", 303)


@router.post("/workers/{name}/{verb}")
@router.post("/nodes/{name}/{verb}")
@router.post("/gpus/{name}/{verb}")
def wish(farm: Farm, request: Request, name: str, verb: str, body: Body) -> Response:
    """The menus of the workers' view without the script."""
    wish_from_form(farm, request.url.path.split("/")[1], name, verb, body)
    return RedirectResponse("/workers", 303)


@router.get("/favicon.ico")
def favicon() -> Response:
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def _settings(job: Json) -> Json:
    """What "Copy settings" copies: as the API takes it."""
    names = ("prompt", "model", "size", "frames", "steps", "seed", "guidance", "negative_prompt")
    said = {name: job[name] for name in names if job[name] is not None}
    return said | ({"image": job["image"]["digest"], "fit": job["image"]["fit"]} if job["image"] else {})


def _home(
    farm: Services,
    request: Request,
    chip: str,
    search: str,
    after: str | None,
    wish: Json | None = None,
    error: FarmError | None = None,
) -> Response:
    cursor = events.latest(farm.db)  # before the jobs are read: what happens meanwhile is told by the stream
    counts = jobs.counts(farm.db)
    wanted = CHIPS[chip] if chip else tuple(JobState)
    rows, more = ([], 0) if after else _rows(farm, wanted, search, bool(chip), counts)
    videos: list[Job] = []
    older = None
    if JobState.SUCCEEDED in wanted:
        videos, older = jobs.find(
            farm.db, states=[JobState.SUCCEEDED], search=search or None, limit=PAGE, after=after
        )
    models = [model_json(preset, farm.models) for preset in farm.models.installed.values()]
    context: dict[str, Any] = {
        "cursor": cursor,
        "chip": chip,
        "search": search,
        "chips": [
            (name, states, sum(counts[s] for s in states), _address(name, search)) for name, states in CHIPS.items()
        ],
        "everything": (sum(counts.values()), _address("", search)),
        "groups": {name: [s.value for s in states] for name, states in CHIPS.items()},
        "rows": [job_json(job) for job in rows],
        "more": more,
        "videos": [job_json(job) for job in videos],
        "older": _address(chip, search, older) if older else None,
        "paged": after is not None,
        "workers": worker_list(farm),
        "models": sorted(models, key=lambda m: not m["default"]),
        "ideas": ideas(spoken(request)),
        "blank": _BLANK,
        "wish": wish or {},
        "error": error,
    }
    return page(request, "home.html", context, error.status if error else 200)


def _rows(
    farm: Services, wanted: tuple[JobState, ...], search: str, filtered: bool, counts: dict[JobState, int]
) -> tuple[list[Job], int]:
    """The list above the gallery: what is not finished, then the latest that ended without a video."""
    open_states = [state for state in wanted if state in _UNFINISHED]
    ended = [state for state in wanted if state in FINAL and state is not JobState.SUCCEEDED]
    found: list[Job] = []
    more = 0
    if open_states:
        found, _ = jobs.find(farm.db, states=open_states, search=search or None, limit=ROWS, order="asc")
        if len(found) == ROWS:
            more = max(sum(counts[state] for state in open_states) - ROWS, 0)
    found.sort(key=lambda job: (_RANK[job.state], -job.priority))
    if ended:
        unhappy, _ = jobs.find(farm.db, states=ended, search=search or None, limit=ROWS if filtered else 4)
        found += unhappy
    return found, more


def _address(chip: str, search: str, after: str | None = None) -> str:
    query = {k: v for k, v in (("state", chip), ("q", search), ("after", after)) if v}
    return f"/?{urlencode(query)}" if query else "/"
