"""The page: queue and gallery, one job, and the forms behind their buttons (they work without the script)."""

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from farm.api.body import Body
from farm.api.jobs import accept, again, parse_tag
from farm.api.present import Json
from farm.api.services import Farm, Services
from farm.db import jobs
from farm.db.engine import Database
from farm.domain.errors import FarmError, InvalidRequest
from farm.domain.fields import number_of
from farm.domain.job import Job
from farm.web.compare import compare_view
from farm.web.health import health_view
from farm.web.job import job_view
from farm.web.queue import View, queue_view
from farm.web.render import STATIC, page, spoken
from farm.web.workers import NoSuchButton, wish_from_form, workers_view

router = APIRouter(include_in_schema=False)

MOST = 16  # jobs of one form


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
def home(farm: Farm, request: Request) -> Response:
    return _home(farm, request, View.of(request))


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(farm: Farm, request: Request, job_id: str) -> Response:
    return page(request, "job.html", job_view(farm, job_id))


@router.get("/workers", response_class=HTMLResponse)
def workers_page(farm: Farm, request: Request) -> Response:
    return page(request, "workers.html", workers_view(farm, spoken(request)))


@router.get("/compare", response_class=HTMLResponse)
def compare_page(farm: Farm, request: Request, a: str = "", b: str = "") -> Response:
    return page(request, "compare.html", compare_view(farm, a, b))


@router.get("/health", response_class=HTMLResponse)
def health_page(farm: Farm, request: Request) -> Response:
    return page(request, "health.html", health_view(farm))


@router.post("/submit")
def submit(farm: Farm, request: Request, body: Body) -> Response:
    """The form without the script: back to the page, or the page with what is wrong."""
    try:
        jobs.submit(farm.db, [accept(farm, one) for one in _wishes(body)])
    except FarmError as error:
        # A file cannot be put back into a form; its field is empty again.
        shown = {name: value for name, value in body.items() if isinstance(value, str)}
        return _home(farm, request, View(), wish=shown, error=error)
    farm.poke()
    return RedirectResponse("/", 303)


@router.post("/jobs/{job_id}/{verb}")
def act(farm: Farm, job_id: str, verb: str) -> Response:
    moves: dict[str, Callable[[Database, str], Job]] = {
        "cancel": jobs.cancel, "hold": jobs.hold, "release": jobs.release, "retry": jobs.retry,
        "front": jobs.move_to_front,
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


def _wishes(body: Json) -> list[Json]:
    """What a form says in text: how many, and tags like "shot=12a, take=3"."""
    wish = {name: value for name, value in body.items() if name != "count" and value != ""}
    if "tags" in wish:
        wish["tags"] = dict(pair for part in str(wish["tags"]).split(",") if (pair := parse_tag(part.strip())))
    count = number_of(body.get("count") or 1)
    if count is None or not count.is_integer() or not 1 <= count <= MOST:
        raise InvalidRequest(f"a form makes 1 to {MOST} jobs", "use farm submit --count for more", "count")
    seed = number_of(wish.get("seed"))
    seeds = [None] * int(count) if seed is None else [int(seed) + i for i in range(int(count))]
    return [wish if one is None else {**wish, "seed": one} for one in seeds]


def _home(
    farm: Services, request: Request, view: View, wish: Json | None = None, error: FarmError | None = None
) -> Response:
    context = {**queue_view(farm, request, view), "wish": wish or {}, "error": error}
    return page(request, "home.html", context, error.status if error else 200)
