"""`/api/batches`: many jobs at once, all or none, and idempotent by content."""

from dataclasses import replace

from fastapi import APIRouter, Response

from farm.api.body import Body
from farm.api.images import image_sizes
from farm.api.present import Json
from farm.api.services import Farm
from farm.db import jobs
from farm.db.engine import Database
from farm.domain.errors import FarmError, InvalidRequest
from farm.domain.request import batch_jobs
from farm.domain.states import JobState

router = APIRouter(prefix="/api/batches", tags=["batches"])

PAGE = 500


class BatchNotFound(FarmError):
    code = "batch_not_found"
    status = 404


@router.post("", status_code=201)
def create(farm: Farm, body: Body, response: Response) -> Json:
    """`name` and `rows`. Rows that the batch already has are counted as existing, not added again."""
    if unknown := set(body) - {"name", "rows"}:
        raise InvalidRequest("a batch has a name and rows", "put other fields into the rows", sorted(unknown)[0])
    wishes = batch_jobs(body.get("name"), body.get("rows"), farm.models, image_sizes(farm))
    submitted = jobs.submit(farm.db, [replace(wish, owner=farm.person.name) for wish in wishes])
    created = sum(one.created for one in submitted)
    if created:
        farm.poke()
    else:
        response.status_code = 200
    return {
        "object": "batch",
        "name": wishes[0].batch,
        "rows": len(submitted),
        "created": created,
        "existing": len(submitted) - created,
        "jobs": [one.job.id for one in submitted],
    }


@router.get("/{name:path}")
def show(farm: Farm, name: str) -> Json:
    """Its state and counts, derived from its jobs."""
    counts = _counts(farm.db, name)
    if not any(counts.values()):
        raise BatchNotFound(f"there is no batch {name!r}", "see the batches of jobs: farm list --json")
    open_jobs = sum(n for state, n in counts.items() if not state.final)
    state = "running" if open_jobs else "failed" if counts[JobState.FAILED] else "finished"
    return {
        "object": "batch",
        "name": name,
        "state": state,
        "rows": sum(counts.values()),
        "counts": {state.value: n for state, n in counts.items()},
    }


def _counts(db: Database, name: str) -> dict[JobState, int]:
    counts = dict.fromkeys(JobState, 0)
    after: str | None = None
    while True:
        page, after = jobs.find(db, batch=name, limit=PAGE, after=after)
        for job in page:
            counts[job.state] += 1
        if after is None:
            return counts
