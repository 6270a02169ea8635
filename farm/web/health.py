"""The health page: whether a job sent now would be kept and rendered, and by what."""

from typing import Any

from farm.api.health import health
from farm.api.models import model_list
from farm.api.services import Services
from farm.db import events
from farm.domain.errors import FarmError


def health_view(farm: Services) -> dict[str, Any]:
    """Also while the database is away: then without jobs, workers and models."""
    told = health(farm)
    there = told["checks"]["database"] == "ok"
    states = [worker["state"] for worker in told["workers"]]
    return {
        "room": "health",
        "told": told,
        "cursor": _cursor(farm) if there else "",
        "models": [model for model in model_list(farm) if model["installed"]] if there else [],
        "pool": {state: states.count(state) for state in ("busy", "idle", "starting")},
    }


def _cursor(farm: Services) -> int | str:
    try:
        return events.latest(farm.db)
    except FarmError:  # it went away this very moment
        return ""
