"""The probe of a device that was in quarantine: can it compute, and does the farm's model render on it?

Runs in a fresh process, for what a faulty card leaves behind in an old one proves nothing.
"""

import importlib
from typing import Any

import numpy as np

from farm.cluster.resident import Resident
from farm.domain.errors import FarmError
from farm.media.check import BLACK
from model.events import Frames, RenderSpec
from model.library import Library
from model.wan.config import Preset

PROMPT = "a red circle moves left"
_SIDE, _ROUNDS = 2048, 20
_FRAMES, _STEPS = 5, 4


class ProbeFailed(FarmError):
    code = "probe_failed"


def model_for(library: Library, wanted: str) -> Preset | None:
    """What to render: the farm's model, else any that this machine has. No card is at fault for absent weights."""
    installed = {preset.name: preset for preset in library.installed()}
    return installed.get(wanted) or next(iter(installed.values()), None)


def run(resident: Resident, preset: Preset | None, on_gpu: bool) -> str:
    """What was done, for people. Raises ProbeFailed, and whatever the device or the model raises."""
    said: list[str] = []
    if on_gpu:
        _multiply()
        said.append(f"{_ROUNDS} products of {_SIDE} x {_SIDE} matrices were exact")
    if preset is None:
        said.append("there is no model here to render with")
    else:
        said.append(f"{preset.name} rendered {_FRAMES} frames (brightest pixel {_render(resident, preset)})")
    return ", and ".join(said)


def _multiply() -> None:
    """Small whole numbers: their sums of products are exact in every arithmetic, TF32 included."""
    torch: Any = importlib.import_module("torch")  # not of the farm's process where the model needs none
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-4, 5, (_SIDE, _SIDE), generator=generator).float() for _ in range(2))
    expected, on_card = a @ b, (a.cuda(), b.cuda())
    for n in range(1, _ROUNDS + 1):
        if not torch.equal((on_card[0] @ on_card[1]).cpu(), expected):
            raise ProbeFailed(f"product {n} of two matrices of whole numbers is wrong")


def _render(resident: Resident, preset: Preset) -> int:
    width, height = preset.size
    image = None
    if preset.task == "i2v":
        ramp = np.linspace(0, 255, width, dtype=np.uint8)
        image = np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()
    spec = RenderSpec(
        prompt=PROMPT, width=width, height=height, frames=_FRAMES,
        steps=min(_STEPS, preset.steps), seed=1, image=image,
    )  # fmt: skip
    frames = [e.frames for e in resident.pipeline(preset.name).render(spec, lambda: False) if isinstance(e, Frames)]
    count, brightest = sum(map(len, frames)), max((int(f.max()) for f in frames), default=0)
    if count != _FRAMES or brightest <= BLACK:
        raise ProbeFailed(f"{preset.name} gave {count} of {_FRAMES} frames, brightest pixel {brightest}")
    return brightest
