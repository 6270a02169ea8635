"""`/api/workers`: who renders, on what, and what it is doing."""

from fastapi import APIRouter

from farm.api.present import Json, worker_json
from farm.api.services import Farm, Services
from farm.db import jobs, workers
from farm.domain.states import ACTIVE

router = APIRouter(prefix="/api/workers", tags=["workers"])


@router.get("")
def index(farm: Farm) -> Json:
    return {"object": "list", "data": worker_list(farm)}


def worker_list(farm: Services) -> list[Json]:
    """Those that live, first the busy ones."""
    active, _ = jobs.find(farm.db, states=list(ACTIVE), limit=500)
    living = [worker for worker in workers.find(farm.db) if worker.state != "gone"]
    return [worker_json(worker, active) for worker in sorted(living, key=lambda w: (w.node, w.gpu, w.id))]
