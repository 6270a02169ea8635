"""A job's video made into another form when somebody asks for it; two at a time, and nothing of it is kept."""

import shutil
import tempfile
import threading
from pathlib import Path

from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from farm.api.content import disposition, file_name
from farm.api.services import Services
from farm.domain.errors import FarmError, InvalidRequest
from farm.domain.job import Artifact, Job
from farm.domain.provenance import tags_of
from farm.media.mp4 import read_tags
from farm.media.transcode import RATES, Variant, transcode

_AT_ONCE = threading.BoundedSemaphore(2)  # each takes a core for about as long as the video lasts
_PATIENCE = 60.0  # seconds


class TranscoderBusy(FarmError):
    code = "busy"
    status = 503


def made_into(
    farm: Services, job: Job, artifact: Artifact, variant: Variant, fps: int | None, conform: bool
) -> Response:
    """Raises TranscoderBusy, InvalidRequest, BrokenVideo, StorageUnavailable."""
    after = job.spec.fps if fps is None else fps
    if not RATES[0] <= after <= RATES[1]:
        near = min(max(after, RATES[0]), RATES[1])
        raise InvalidRequest(
            f"fps must be from {RATES[0]} to {RATES[1]}, not {after}", f"the nearest is {near}", "fps"
        )
    if not _AT_ONCE.acquire(timeout=_PATIENCE):
        raise TranscoderBusy("others are having videos converted just now", "try again in a minute")
    try:
        folder = Path(tempfile.mkdtemp(prefix="farm-"))
        try:
            source, target = folder / "source.mp4", folder / f"video.{variant.extension}"
            with source.open("wb") as file:
                for part in farm.store.open(artifact.key):
                    file.write(part)
            # Of this very file: its label must go with the pictures, whoever produced them.
            tags = {name: value for name, value in read_tags(source).items() if name != "encoder"}
            tags = tags or tags_of(job.id, job.spec, job.expanded_prompt)
            transcode(source, target, variant, tags, rate=(job.spec.fps, after), conform=conform)
            source.unlink()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        _AT_ONCE.release()
    headers = {
        "Content-Disposition": disposition(file_name(job, variant.extension), download=True),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    gone = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(target, headers=headers, media_type=variant.media_type, background=gone)
