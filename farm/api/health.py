"""Is the process alive, is the farm ready, and a page of facts for people."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farm.api.outage import database_trouble, outage
from farm.api.present import Json
from farm.api.services import Farm, Services
from farm.api.workers import worker_list
from farm.db import jobs

router = APIRouter(tags=["health"])


@router.get("/healthz")
def alive() -> Json:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(farm: Farm) -> JSONResponse:
    """200 once a job sent now would be kept and rendered; else 503 naming what is missing."""
    checks, _ = _checks(farm)
    ok = all(said == "ok" for said in checks.values())
    return JSONResponse({"status": "ok" if ok else "not ready", "checks": checks}, 200 if ok else 503)


@router.get("/api/health")
def health(farm: Farm) -> Json:
    """Answers also while the database is away: then it names no jobs and no workers.

    `outage` says what that means for people.
    """
    checks, away = _checks(farm)
    counts: dict[str, int] = {}
    working: list[Json] = []
    if checks["database"] == "ok":
        counts = {state.value: n for state, n in jobs.counts(farm.db).items()}
        working = worker_list(farm)
    return {
        "status": "ok" if all(said == "ok" for said in checks.values()) else "not ready",
        "checks": checks,
        "outage": away,
        "jobs": counts,
        "workers": working,
        "models": sorted(farm.models.installed),
        "database": farm.db.name,
        "store": farm.store.name,
    }


def _checks(farm: Services) -> tuple[dict[str, str], Json]:
    database, store = database_trouble(farm), farm.store_watch.trouble()
    checks = {
        "database": "ok" if database is None else database.message,
        "store": "ok" if store is None else store.message,
        "dispatcher": "ok" if farm.dispatcher_alive() else "no dispatcher is running: farm up",
    }
    return checks, outage(database, store)
