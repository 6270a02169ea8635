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
    checks = _checks(farm)
    return {
        "status": "ok" if all(said == "ok" for said in checks.values()) else "not ready",
        "checks": checks,
        "jobs": {state.value: n for state, n in jobs.counts(farm.db).items()},
        "workers": worker_list(farm),
        "models": sorted(farm.models.installed),
    }


def _checks(farm: Services) -> dict[str, str]:
    checks: dict[str, str] = {}
    try:
        jobs.counts(farm.db)
        checks["database"] = "ok"
    except FarmError as error:
        checks["database"] = error.message
    try:
        # A key that cannot exist: the question is whether the store answers at all.
        farm.store.size("videos/readyz")
        checks["store"] = "ok"
    except FarmError as error:
        checks["store"] = error.message
    checks["dispatcher"] = "ok" if farm.dispatcher_alive() else "no dispatcher is running: farm up"
    return checks
