"""What goes into a render and what comes out of it: the words between the model and who calls it. No torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class RenderSpec:
    """What to render: width, height in pixels; frames 4k + 1; the seed means the same video on every device."""

    prompt: str
    width: int
    height: int
    frames: int
    steps: int
    seed: int
    guidance: float = 1.0


@dataclass(frozen=True)
class Stage:
    """Work on `name` (text, denoise or decode) begins."""

    name: str


@dataclass(frozen=True)
class Step:
    """Denoise step k of n is done."""

    k: int
    n: int


@dataclass(frozen=True)
class Preview:
    """The clean latent as it looks after `step`: uint8 [h, w, 3], one pixel a latent pixel, middle frame."""

    step: int
    image: Image


@dataclass(frozen=True)
class Frames:
    """Decoded frames [first, first + n): uint8 [n, h, w, 3]."""

    first: int
    frames: Image


Event = Stage | Step | Preview | Frames
