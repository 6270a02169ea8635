"""Two videos beside each other: what plays, and in what they differ."""

from typing import Any

from farm.api.jobs import finished
from farm.api.present import Json, job_json
from farm.api.services import Services
from farm.domain.errors import InvalidRequest

_SETTINGS = (
    "prompt", "model", "model_digest", "size", "frames", "fps", "steps", "seed", "guidance", "negative_prompt",
)  # fmt: skip
_CALLED = {"model_digest": "weights", "negative_prompt": "without"}


def compare_view(farm: Services, a: str, b: str) -> dict[str, Any]:
    """Raises JobNotFound, NotReady for a job without a video, InvalidRequest where fewer than two are named."""
    if not a or not b:
        raise InvalidRequest("two videos are needed to compare", "choose them on the page of all jobs")
    left, right = (job_json(finished(farm, job_id)[0]) for job_id in (a, b))
    return {"jobs": [left, right], "settings": _settings(left, right), "cursor": ""}


def _settings(left: Json, right: Json) -> list[tuple[str, Any, Any]]:
    """(which word, of the first, of the second), in the order of a job's page."""
    rows = [(_CALLED.get(name, name), left[name], right[name]) for name in _SETTINGS]
    return [row for row in rows if row[1] is not None or row[2] is not None]
