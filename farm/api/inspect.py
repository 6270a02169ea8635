"""`/api/inspect`: what a finished video says about itself, so that a page can take its settings over."""

import io
from typing import Any

from fastapi import APIRouter

from farm.api.body import FileBody
from farm.api.present import Json
from farm.domain.provenance import read_back
from farm.media.mp4 import NotAnMp4, read_mp4

router = APIRouter(prefix="/api/inspect", tags=["videos"])


@router.post("")
def inspect(file: FileBody) -> Json:
    """The file as body, or a form with it. Its first mebibyte is enough: all that is read stands in front.

    `settings` are the fields that POST /api/jobs takes; nothing is kept.
    """
    video = read_mp4(io.BytesIO(file))
    told = read_back(video.tags)
    if told is None:
        raise NotAnMp4("this video does not say how it was made", "give one that this farm has made, uncut")
    track = video.video
    settings: dict[str, Any] = told.wish
    return {
        "object": "inspection",
        "settings": settings,
        "job": told.job,
        "model": settings.get("model"),
        "model_digest": told.settings.get("model_digest"),
        "version": told.version,
        "expanded_prompt": told.expanded_prompt,
        "label": dict(told.label),
        "video": {
            "seconds": round(video.seconds, 3),
            "width": track.width if track else 0,
            "height": track.height if track else 0,
            "frames": track.frames if track else 0,
            "sound": video.has_sound,
        },
    }
