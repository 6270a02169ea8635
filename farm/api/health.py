"""Is the process alive, is the farm ready, and a page of facts for people."""

import os
import platform
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from farm.api.outage import database_trouble, outage
from farm.api.present import Json
from farm.api.services import Farm, Services
from farm.api.workers import worker_list
from farm.db import jobs
from farm.domain.version import VERSION
from farm.ops.checks.machine import check_disk, read_disk

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
        "server": _server(farm),
    }


def _server(farm: Services) -> Json:
    """This process and its machine. `disk` is where videos lie, null where they lie on another machine."""
    return {
        "version": VERSION,
        "python": platform.python_version(),
        "host": platform.node(),
        "system": platform.platform(terse=True),
        "pid": os.getpid(),
        "disk": _disk(Path(farm.store.name)) if os.path.isabs(farm.store.name) else None,
    }


def _disk(path: Path) -> Json | None:
    try:
        disk = read_disk(path)
    except OSError:  # its file system went away: the check of the store says so
        return None
    finding = check_disk(disk)
    return {"free": disk.free, "total": disk.total, "verdict": finding.verdict.value, "next": finding.next}


def _checks(farm: Services) -> tuple[dict[str, str], Json]:
    database, store = database_trouble(farm), farm.store_watch.trouble()
    checks = {
        "database": "ok" if database is None else database.message,
        "store": "ok" if store is None else store.message,
        "dispatcher": "ok" if farm.dispatcher_alive() else "no dispatcher is running: farm up",
    }
    return checks, outage(database, store)
