"""What goes into a render and what comes out of it: the words between the model and who calls it. No torch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
# How an image of another shape fills the video: cut its edges, add bars, or distort it.
Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class RenderSpec:
    """What to render: width, height in pixels; frames 4k + 1; the seed means the same video on every device.

    image: the first frame for image-to-video, uint8 [h, w, 3] of any size; `fit` brings it to the video's.
    negative_prompt: what guidance leads away from; None: the model's own. topk: the share of key blocks that
    sparse attention keeps; None: the preset's. ode: a distilled model draws no fresh noise between its steps.
    """

    prompt: str
    width: int
    height: int
    frames: int
    steps: int
    seed: int
    guidance: float = 1.0
    negative_prompt: str | None = None
    image: Image | None = None
    fit: Fit = "crop"
    topk: float | None = None
    ode: bool = False


@dataclass(frozen=True)
class Stage:
    """Work on `name` (text, image, denoise or decode) begins; image only where the spec has one."""

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
