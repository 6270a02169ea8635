"""A wish that goes on where another video ends: the last frame of that one becomes the first of this."""

import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from farm.api.images import IMAGE_FIELDS, take_in
from farm.api.present import Json
from farm.api.services import Services
from farm.domain.errors import InvalidRequest
from farm.domain.job import Artifact, Job
from farm.media.check import frames_of
from farm.media.stills import png
from farm.storage.store import Store

# The job of this id and its video. Raises JobNotFound, NotReady.
Finished = Callable[[Services, str], tuple[Job, Artifact]]


def continued(farm: Services, body: Mapping[str, Any], finished: Finished) -> Json:
    """The wish with an image instead of its field `continue`. Raises NotReady, InvalidRequest."""
    wish = {name: value for name, value in body.items() if name != "continue"}
    before = body.get("continue")
    if before is None or before == "":
        return wish
    if clash := next((name for name in IMAGE_FIELDS if wish.get(name) is not None), None):
        raise InvalidRequest("a video continues another or begins with an image, not both", "leave one out", clash)
    job, artifact = finished(farm, str(before))
    if not wish.get("model"):
        wish["model"] = _model(farm, job)
    preset = farm.models.choose(wish["model"])
    if preset.task != "i2v":
        raise InvalidRequest(
            f"{preset.name} makes videos from text only, it cannot continue one",
            "choose an image-to-video model, or leave the model out",
            "model",
        )
    wish["image"] = take_in(farm, last_frame(farm.store, artifact))["digest"]
    return wish


def last_frame(store: Store, artifact: Artifact) -> bytes:
    """As PNG. Raises BrokenVideo, StorageUnavailable."""
    with tempfile.TemporaryDirectory(prefix="farm-") as folder:
        path = Path(folder) / "video.mp4"
        with path.open("wb") as file:
            for part in store.open(artifact.key):
                file.write(part)
        return png(deque(frames_of(path), maxlen=1)[0])


def _model(farm: Services, job: Job) -> str:
    """The model of the job before, if it begins with images; else the first one here that does."""
    able = [preset.name for preset in farm.models.installed.values() if preset.task == "i2v"]
    if not able:
        raise InvalidRequest(
            "to continue a video takes an image-to-video model, and this farm has none",
            "run on a machine of the farm: farm models pull wan2.2-i2v-a14b",
            "continue",
        )
    return job.spec.model if job.spec.model in able else able[0]
