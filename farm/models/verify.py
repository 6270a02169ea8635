"""`farm models verify`: every file against its manifest, and a known prompt rendered and looked at."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farm.domain.errors import FarmError
from farm.media.check import check_video
from farm.media.encoder import Encoder
from farm.models.errors import ImportFailed
from model.errors import ModelError
from model.events import Frames, Image, RenderSpec, Stage
from model.library import File, Library, needed
from model.wan.config import Preset
from model.wan.sizes import nearest_size

PROMPT = "a large red circle moving left to right on a black background"
SEED = 20260101
_LONGEST = 17  # frames
_UNDISTILLED_STEPS = 16  # fewer leave noise that the checks of a whole video would refuse
Say = Callable[[str, int, int], None]


class VerifyFailed(FarmError):
    """The model is not what its manifest says, or does not draw."""

    code = "verify_failed"


@dataclass(frozen=True)
class Damage:
    """A file that is not as the manifest says."""

    component: str
    file: str
    expected: str
    found: str


@dataclass(frozen=True)
class Rendered:
    """One render. `digest`: sha256 over all frames' pixels; equal on two machines means the same video."""

    spec: RenderSpec
    fps: int
    seconds: Mapping[str, float]
    digest: str


def rehash(library: Library, preset: Preset, say: Say) -> list[Damage]:
    """Reads every file of the model. [] means that all are as imported; a packaged model has no manifest.

    Raises ImportFailed where a part is missing or mis-sized.
    """
    if preset.weights is not None:
        return []
    damages: list[Damage] = []
    for name in needed(preset):
        try:
            component = library.read(name)
        except ModelError as error:
            raise ImportFailed(error.message, error.next) from error
        for file in component.files:
            found = _sha256(library.folder / name / file.name, file, f"{name}/{file.name}", say)
            if found != file.sha256:
                damages.append(Damage(name, file.name, file.sha256, found))
    return damages


def known_spec(preset: Preset) -> RenderSpec:
    """The smallest setting at which the model still draws something worth looking at."""
    width, height = nearest_size(preset.size[0] / 2, preset.size[1] / 2, preset)
    steps = preset.steps if preset.distilled else min(preset.steps, _UNDISTILLED_STEPS)
    return RenderSpec(
        prompt=PROMPT, width=width, height=height, frames=min(preset.frames, _LONGEST), steps=steps, seed=SEED,
        guidance=preset.guidance, image=known_image() if preset.task == "i2v" else None,
    )  # fmt: skip


def known_image() -> Image:
    """uint8 [480, 832, 3]: a red disc on a dark slope, computed and so the same everywhere."""
    y, x = np.mgrid[0:480, 0:832]
    image = np.stack([x * 64 // 832, y * 64 // 480, np.full_like(x, 40)], axis=-1).astype(np.uint8)
    image[(x - 300) ** 2 + (y - 240) ** 2 < 90**2] = (220, 30, 30)
    return image


def render(pipeline: object, library: Library, preset: Preset, device: str, keep: Path | None = None) -> Rendered:
    """Loads the model with `pipeline` (a class as model.pipeline.Pipeline), renders, and checks the video.

    keep: where to leave the MP4. Raises VerifyFailed.
    """
    spec = known_spec(preset)
    seconds: dict[str, float] = {}
    clock = _Clock(seconds)
    with tempfile.TemporaryDirectory(prefix="farm-verify-") as folder:
        path = Path(folder) / "video.mp4"
        try:
            clock.enter("load")
            loaded = pipeline.load(preset, library=library, device=device)  # pyright: ignore
            total = hashlib.sha256()
            encoder = Encoder(path, size=(spec.width, spec.height), fps=preset.fps)
            for event in loaded.render(spec, lambda: False):  # pyright: ignore
                if isinstance(event, Stage):
                    clock.enter(event.name)
                elif isinstance(event, Frames):
                    total.update(np.ascontiguousarray(event.frames).tobytes())
                    encoder.write(event.frames)
            clock.enter("encode")
            encoder.close({"title": PROMPT})
            check_video(path, frames=spec.frames, size=(spec.width, spec.height))
            clock.enter(None)
        except ModelError as error:
            raise VerifyFailed(error.message, error.next) from error
        if keep is not None:
            keep.write_bytes(path.read_bytes())
    return Rendered(spec, preset.fps, seconds, total.hexdigest())


class _Clock:
    """Seconds of each stage."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._stage: str | None = None
        self._since = time.perf_counter()

    def enter(self, stage: str | None) -> None:
        now = time.perf_counter()
        if self._stage is not None:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


def _sha256(path: Path, file: File, name: str, say: Say) -> str:
    total, done = hashlib.sha256(), 0
    with path.open("rb") as content:
        while chunk := content.read(1 << 20):
            total.update(chunk)
            done += len(chunk)
            say(name, done, file.bytes)
    return total.hexdigest()
