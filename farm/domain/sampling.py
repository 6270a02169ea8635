"""How a video is denoised, as people ask for it: steps, seed, guidance, quality, the kind of steps. Pure."""

import secrets

from farm.domain.errors import InvalidRequest
from farm.domain.fields import Fields, quote
from farm.domain.job import seed_from_key
from model.wan.config import Preset

MAX_SEED = 2**32 - 1
MAX_GUIDANCE = 20.0
# Share of key blocks that sparse attention keeps (TurboDiffusion: 0.1 is its default, 0.15 looks a little better).
QUALITIES = {"fast": 0.1, "best": 0.15}


def steps_of(wish: Fields, preset: Preset) -> int:
    steps = wish.integer("steps")
    if steps is None:
        return preset.steps
    if not 1 <= steps <= preset.max_steps:
        why = ", it is distilled to them" if preset.distilled else ""
        raise InvalidRequest(
            f"{preset.name} takes 1 to {preset.max_steps} steps{why}; not {steps}",
            f"the nearest is {min(max(steps, 1), preset.max_steps)}",
            "steps",
        )
    return steps


def seed_of(wish: Fields, key: str | None) -> int:
    seed = wish.integer("seed")
    if seed is None:
        return secrets.randbits(32) if key is None else seed_from_key(key)
    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequest(
            f"seed must be from 0 to {MAX_SEED}, not {str(seed)[:40]}",
            f"the nearest is {min(max(seed, 0), MAX_SEED)}; leave it out for a random one",
            "seed",
        )
    return seed


def guidance_of(wish: Fields, preset: Preset) -> float:
    guidance = wish.number("guidance")
    if guidance is None:
        return preset.guidance
    if preset.distilled and guidance != 1.0:
        raise InvalidRequest(
            f"{preset.name} is distilled: its guidance is built in", "leave guidance out (or 1)", "guidance"
        )
    if not 1.0 <= guidance <= MAX_GUIDANCE:
        near = min(max(guidance, 1.0), MAX_GUIDANCE)
        raise InvalidRequest(
            f"guidance must be from 1 (off) to {MAX_GUIDANCE:g}, not {guidance:g}",
            f"the nearest is {near:g}; {preset.name} likes {preset.guidance:g}",
            "guidance",
        )
    return guidance


def quality_of(wish: Fields, preset: Preset) -> str | None:
    """fast or best; None: as the model has it."""
    value = wish.get("quality")
    if value is None:
        return None
    if preset.topk is None:
        raise InvalidRequest(
            f"{preset.name} has no quality to choose: its attention leaves nothing out",
            "leave quality out; more steps are what makes it better",
            "quality",
        )
    if not isinstance(value, str) or value not in QUALITIES:
        raise InvalidRequest(
            f"quality must be fast or best, not {quote(value)}", "best looks at half as much again", "quality"
        )
    return value


def ode_of(wish: Fields, preset: Preset) -> bool:
    """Whether no fresh noise is drawn between the steps of a distilled model: sharper, less varied."""
    ode = wish.flag("ode")
    if ode and not preset.distilled:
        raise InvalidRequest(
            f"{preset.name} is not distilled: its steps draw no fresh noise anyway", "leave ode out", "ode"
        )
    return ode
