"""`/api/lanes` and `/api/usage`: what waits and runs for whom, whether it may, and what it has cost so far."""

from typing import Annotated

from fastapi import APIRouter, Query

from farm.api.body import Body
from farm.api.present import Json, lane_json, usage_json
from farm.api.services import Farm
from farm.db import lanes
from farm.db.usage import usage
from farm.domain.errors import FarmError, InvalidRequest
from farm.domain.fields import quote

router = APIRouter(prefix="/api", tags=["queue"])


class LaneNotFound(FarmError):
    code = "lane_not_found"
    status = 404


@router.get("/lanes")
def index(farm: Farm) -> Json:
    """Every lane (owner, project, class, model) there has ever been a job for."""
    return {"object": "list", "data": [lane_json(lane) for lane in lanes.lanes(farm.db)]}


@router.patch("/lanes/{lane:path}")
def change(farm: Farm, lane: str, body: Body) -> Json:
    """`closed` true: nothing more is claimed from it, and what runs goes on; false: it is open again."""
    if strange := sorted(set(body) - {"closed", "reason"}):
        raise InvalidRequest(f"a lane has no {quote(strange[0])} to change", "there are: closed, reason", "body")
    closed, reason = body.get("closed"), body.get("reason")
    if not isinstance(closed, bool):
        raise InvalidRequest("closed must be true or false", "true lets nothing more start", "closed")
    if reason is not None and (not isinstance(reason, str) or len(reason) > 500 or not reason.isprintable()):
        raise InvalidRequest("reason must be a text of at most 500 characters", "shorten it", "reason")
    why = f"{(reason or '').strip() or 'closed by hand'} ({farm.by(None)})"
    known = lanes.close_lane(farm.db, lane, why) if closed else lanes.open_lane(farm.db, lane)
    if not known:
        raise LaneNotFound(f"there is no lane {quote(lane)}", "see them: GET /api/lanes")
    farm.poke()
    return next(lane_json(one) for one in lanes.lanes(farm.db) if one.id == lane)


@router.get("/usage")
def spent(farm: Farm, days: Annotated[float, Query(gt=0, le=366)] = 30.0) -> Json:
    """GPU time and videos by owner and project, of attempts that ended within `days`; the most first."""
    return {"object": "list", "days": days, "data": [usage_json(one) for one in usage(farm.db, days)]}
