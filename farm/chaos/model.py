"""A quick pipeline for a farm that is to be beaten: real small videos, drawn in a second or two.

What a prompt says happens: "overlong" is refused, "hungry" runs out of memory.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from model.errors import PromptTooLong, RenderCancelled
from model.events import Event, Frames, RenderSpec, Stage, Step
from model.library import Library
from model.wan.config import Preset

STEP_SECONDS = 0.1
REFUSED, HUNGRY = "overlong", "hungry"  # words of a prompt


class Pipeline:
    """Shaped as model.pipeline.Pipeline, under the digest of the weights that the API knows."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    @classmethod
    def load(cls, preset: Preset, library: Library | None = None, device: str = "cpu", **_: Any) -> "Pipeline":
        return cls((library or Library()).digest(preset))

    def render(self, spec: RenderSpec, cancelled: Callable[[], bool]) -> Iterator[Event]:
        yield Stage("text")
        if REFUSED in spec.prompt:
            raise PromptTooLong("the prompt has more tokens than the model reads", "shorten it")
        yield Stage("denoise")
        steps = 4 + spec.seed % 22  # its own, not the job's: faults shall meet short renders and long ones
        for k in range(1, steps + 1):
            if cancelled():
                raise RenderCancelled
            if k == 2 and HUNGRY in spec.prompt:
                raise MemoryError("no room for 3 GiB")
            time.sleep(STEP_SECONDS)
            yield Step(k, steps)
        yield Stage("decode")
        picture = _picture(spec)
        for first in range(0, spec.frames, 4):
            yield Frames(first, picture[first : first + 4])


def _picture(spec: RenderSpec) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A bar that walks: uint8 [n, h, w, 3]. Its colour is the seed's, so that no two jobs look alike."""
    picture = np.full((spec.frames, spec.height, spec.width, 3), 30, np.uint8)
    colour = [60 + (spec.seed >> shift) % 190 for shift in (0, 8, 16)]
    for i in range(spec.frames):
        left = 2 * i % (spec.width - 16)
        picture[i, spec.height // 4 : spec.height // 2, left : left + 16] = colour
    return picture
