"""`/api/models`: what can be asked for here, with the limits of each model."""

from fastapi import APIRouter

from farm.api.present import Json
from farm.api.services import Farm, Services
from farm.db import models
from farm.domain.errors import FarmError
from farm.domain.model import KnownModel
from farm.domain.request import Models
from model.demo.tokenizer import VOCABULARY
from model.wan.config import PRESETS, Preset
from model.wan.sizes import GRID, adaptive_size

_NEAR = 0.04  # of a shape to the shape that was asked for
ASPECTS = ("16:9", "3:2", "4:3", "1:1", "3:4", "2:3", "9:16")

router = APIRouter(prefix="/api/models", tags=["models"])


@router.get("")
def index(farm: Farm) -> Json:
    return {"object": "list", "data": model_list(farm)}


def model_list(farm: Services) -> list[Json]:
    """Every preset of this version, and imported models of other names; `installed` can be asked for now."""
    offered = farm.models
    known = {**PRESETS, **offered.installed}
    rows = models.find(farm.db)
    return [_with_weights(model_json(preset, offered), rows) for preset in known.values()]


def _with_weights(said: Json, rows: list[KnownModel]) -> Json:
    """The digest that new jobs are pinned to, and who holds it."""
    newest = next((row for row in rows if row.name == said["id"] and row.digest == said["digest"]), None)
    return {
        **said,
        "bytes": None if newest is None else newest.bytes,
        "workers": 0 if newest is None else newest.workers,
    }


def model_json(preset: Preset, offered: Models) -> Json:
    """What a form must know of it."""
    return {
        "id": preset.name,
        "object": "model",
        "installed": preset.name in offered.installed,
        "default": preset.name == offered.default,
        "digest": _digest(preset, offered),
        "task": preset.task,
        "distilled": preset.distilled,
        "size": f"{preset.size[0]}x{preset.size[1]}",
        "min_side": preset.min_side,
        "max_side": preset.max_side,
        "max_pixels": preset.max_pixels,
        "grid": GRID,
        "sizes": {aspect: _size(aspect, preset) for aspect in ASPECTS},
        "frames": preset.frames,
        "min_frames": preset.min_frames,
        "max_frames": preset.max_frames,
        "fps": preset.fps,
        "steps": preset.steps,
        "max_steps": preset.max_steps,
        "guidance": preset.guidance,
        "negative_prompt": preset.negative_prompt,
        "max_prompt_chars": preset.max_prompt_chars,
        "vocabulary": _vocabulary(preset),
    }


def _size(aspect: str, preset: Preset) -> str:
    """The size of this shape, with about as many pixels as the model is made for."""
    across, down = map(int, aspect.split(":"))
    width, height = adaptive_size((across, down), preset.size, preset)
    for own in (preset.size, preset.size[::-1]):  # what it was trained at is the better choice where it is near
        if abs(own[0] / own[1] * down / across - 1) < _NEAR:
            width, height = own
    return f"{width}x{height}"


def _vocabulary(preset: Preset) -> Json | None:
    """All that a model reads which knows only some words; None for those that read any prompt."""
    if preset.text_encoder != "demo":
        return None
    words = [word for word in VOCABULARY if word.isascii()]
    return {"words": words, "characters": "".join(one for one in VOCABULARY if not one.isascii())}


def _digest(preset: Preset, offered: Models) -> str | None:
    if preset.name not in offered.installed:
        return None
    try:
        return offered.pin(preset)
    except FarmError:  # its files are damaged: who submits is told
        return None
