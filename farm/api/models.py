"""`/api/models`: what can be asked for here, with the limits of each model."""

from fastapi import APIRouter

from farm.api.present import Json
from farm.api.services import Farm
from farm.domain.request import MIN_FRAMES, Models
from model.wan.config import PRESETS, Preset

router = APIRouter(prefix="/api/models", tags=["models"])


@router.get("")
def index(farm: Farm) -> Json:
    return {"object": "list", "data": [model_json(preset, farm.models) for preset in PRESETS.values()]}


def model_json(preset: Preset, models: Models) -> Json:
    return {
        "id": preset.name,
        "object": "model",
        "installed": preset.name in models.installed,
        "default": preset.name == models.default,
        "task": preset.task,
        "distilled": preset.distilled,
        "size": f"{preset.size[0]}x{preset.size[1]}",
        "min_side": preset.min_side,
        "max_side": preset.max_side,
        "frames": preset.frames,
        "min_frames": MIN_FRAMES,
        "max_frames": preset.max_frames,
        "fps": preset.fps,
        "steps": preset.steps,
        "max_steps": preset.max_steps,
        "guidance": preset.guidance,
        "max_prompt_chars": preset.max_prompt_chars,
    }
