"""A pipeline that computes nothing and takes its time: a step lasts a tenth of a second. For FARM_PIPELINE."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from model.errors import RenderCancelled
from model.events import Event, Frames, RenderSpec, Stage, Step
from model.library import Library

STEP = 0.1  # seconds


class Pipeline:
    """A square that moves over grey."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    @classmethod
    def load(cls, preset: Any, library: Library, device: str = "cpu", plan: object = None) -> "Pipeline":
        return cls(library.digest(preset))

    def render(self, spec: RenderSpec, cancelled: Callable[[], bool]) -> Iterator[Event]:
        yield Stage("text")
        yield Stage("denoise")
        for k in range(1, spec.steps + 1):
            if cancelled():
                raise RenderCancelled
            time.sleep(STEP)
            yield Step(k, spec.steps)
        yield Stage("decode")
        picture = np.full((spec.frames, spec.height, spec.width, 3), 40, np.uint8)
        for i in range(spec.frames):
            picture[i, 10:40, 2 * i : 2 * i + 30] = (220, spec.seed % 200, 60)
        yield Frames(0, picture)
