"""`/v1/videos`: the same jobs in the shape that clients of OpenAI's video API know."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from farm.api.body import Body, IdempotencyKey
from farm.api.jobs import accept, spritesheet
from farm.api.jobs import content as job_content
from farm.api.jobs import thumbnail as job_thumbnail
from farm.api.present import Json, video_json
from farm.api.services import Farm
from farm.db import jobs

router = APIRouter(prefix="/v1/videos", tags=["videos"])


@router.post("")
def create(farm: Farm, body: Body, idempotency_key: IdempotencyKey = None) -> Json:
    submitted = jobs.submit(farm.db, [accept(farm, body, idempotency_key)])[0]
    farm.poke()
    return video_json(submitted.job)


@router.get("")
def index(
    farm: Farm,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Json:
    found, cursor = jobs.find(farm.db, after=after, limit=limit, order=order)
    videos = [video_json(job) for job in found]
    return {
        "object": "list",
        "data": videos,
        "first_id": videos[0]["id"] if videos else None,
        "last_id": videos[-1]["id"] if videos else None,
        "has_more": cursor is not None,
    }


@router.get("/{video_id}")
def show(farm: Farm, video_id: str) -> Json:
    return video_json(jobs.get(farm.db, video_id))


@router.delete("/{video_id}")
def delete(farm: Farm, video_id: str) -> Json:
    """Cancels what still runs, then takes it out of every list."""
    job = jobs.get(farm.db, video_id)
    if not job.state.final:
        jobs.cancel(farm.db, job.id)
        farm.poke()
    jobs.hide(farm.db, job.id)
    return {"id": job.id, "object": "video.deleted", "deleted": True}


@router.get("/{video_id}/content")
def content(
    farm: Farm,
    request: Request,
    video_id: str,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> Response:
    if variant == "thumbnail":
        return job_thumbnail(farm, request, video_id)
    if variant == "spritesheet":
        return spritesheet(farm, request, video_id)
    return job_content(farm, request, video_id)
