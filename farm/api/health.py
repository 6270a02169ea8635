"""Is the process alive, is the farm ready, and a page of facts for people."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farm.api.present import Json
from farm.api.services import Farm, Services
from farm.api.workers import worker_list
from farm.db import jobs
from farm.domain.errors import FarmError

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> Json:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(farm: Farm) -> JSONResponse:
    """200 once a job sent now would be kept and rendered; else 503 naming what is missing."""
    checks = _checks(farm)
    ok = all(said == "ok" for said in checks.values())
    return JSONResponse({"status": "ok" if ok else "not ready", "checks": checks}, 200 if ok else 503)


@router.get("/api/health")
def health(farm: Farm) -> Json:
    """Answers also while the database is away: then it names no jobs and no workers."""
    checks = _checks(farm)
    counts: dict[str, int] = {}
    working: list[Json] = []
    if checks["database"] == "ok":
        counts = {state.value: n for state, n in jobs.counts(farm.db).items()}
        working = worker_list(farm)
    return {
        "status": "ok" if all(said == "ok" for said in checks.values()) else "not ready",
        "checks": checks,
        "jobs": counts,
        "workers": working,
        "models": sorted(farm.models.installed),
        "database": farm.db.name,
        "store": farm.store.name,
    }


def _checks(farm: Services) -> dict[str, str]:
    checks: dict[str, str] = {}
    try:
        jobs.counts(farm.db)
        checks["database"] = "ok"
    except FarmError as error:
        checks["database"] = error.message
    trouble = farm.store_watch.trouble()
    checks["store"] = "ok" if trouble is None else trouble.message
    checks["dispatcher"] = "ok" if farm.dispatcher_alive() else "no dispatcher is running: farm up"
    return checks
