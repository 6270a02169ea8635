"""A pipeline with the shape of model.pipeline and no model: what it does is written in the prompt.

An image is shown throughout ("pad": between black bars).
"gate=PATH": waits at step 3 until PATH exists. "crowd=FOLDER": the worker notes itself there, in a file called
as its GPU, and waits until six have. "children=PATH": starts two processes
that sleep, and writes their pids, once. "late=PATH": waits behind the last frame until PATH exists, whatever it
is told. "oom", "fault", "black", "corrupt", "bug": fails so; "large": out of memory but with a smaller plan.
"leak=MIB": keeps so much memory for good. Probes fail where the file exists that FAKE_BROKEN_CARD names.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from farm.cluster.probe import PROMPT
from model.errors import CorruptWeights, PromptTooLong, RenderCancelled
from model.events import Frames, Preview, RenderSpec, Stage, Step

DIGEST = hashlib.sha256(b"fake").hexdigest()


_leaked: list[bytes] = []


class Pipeline:
    def __init__(self, preset: Any, device: str) -> None:
        self.preset = preset
        self.device = device
        self.digest = DIGEST
        self.plan: Any = None

    @classmethod
    def load(cls, preset: Any, library: Any = None, device: str = "cpu", plan: Any = None) -> "Pipeline":
        pipeline = cls(preset, device)
        pipeline.plan = plan
        if preset.weights is None:  # of a test's library, not of the package
            pipeline.digest = library.digest(preset)
        return pipeline

    def render(self, spec: RenderSpec, cancelled: Callable[[], bool]) -> Iterator[Any]:
        yield Stage("text")
        if "too long" in spec.prompt:
            raise PromptTooLong("the prompt has 99 tokens, the model reads 64", "shorten it")
        if "corrupt" in spec.prompt:
            raise CorruptWeights("the weights file is damaged", "install it again")
        if "large" in spec.prompt and self.plan is None:
            raise MemoryError("no room for 3 GiB")
        if spec.prompt == PROMPT and Path(os.environ.get("FAKE_BROKEN_CARD", "/nowhere")).exists():
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        if spec.image is not None:
            yield Stage("image")
        yield Stage("denoise")
        for k in range(1, spec.steps + 1):
            if k == 3:
                _act(spec.prompt, cancelled)
                self._join_crowd(spec.prompt, cancelled)
            if cancelled():
                raise RenderCancelled
            time.sleep(0.01)
            yield Step(k, spec.steps)
            yield Preview(k, np.full((12, 12, 3), 10 * k % 255, np.uint8))
        yield Stage("decode")
        picture = _moving_square(spec)
        if "black" in spec.prompt:
            picture[:] = 0
        yield Frames(0, picture[:1])
        for first in range(1, spec.frames, 4):
            yield Frames(first, picture[first : first + 4])
        for word in spec.prompt.split():
            while word.startswith("late=") and not Path(word.removeprefix("late=")).exists():
                time.sleep(0.02)

    def _join_crowd(self, prompt: str, cancelled: Callable[[], bool]) -> None:
        for word in prompt.split():
            if word.startswith("crowd="):
                folder = Path(word.removeprefix("crowd="))
                note = {"pid": os.getpid(), "device": self.device, "torch": "torch" in sys.modules}
                (folder / os.environ["CUDA_VISIBLE_DEVICES"]).write_text(json.dumps(note))
                while len(list(folder.iterdir())) < 6 and not cancelled():
                    time.sleep(0.02)


def _act(prompt: str, cancelled: Callable[[], bool]) -> None:
    for word in prompt.split():
        if word.startswith("gate="):
            while not Path(word.removeprefix("gate=")).exists() and not cancelled():
                time.sleep(0.02)
        if word.startswith("children=") and not (note := Path(word.removeprefix("children="))).exists():
            _start_children(note)
        if word == "oom":
            raise MemoryError("no room for 3 GiB")
        if word == "bug":
            raise KeyError("a word that nobody knows")
        if word.startswith("leak="):
            _leaked.append(b"\1" * (int(word.removeprefix("leak=")) << 20))
        if word == "fault":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _start_children(note: Path) -> None:
    """Two that would sleep on: one in the worker's own process group, one that leaves it."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [subprocess.Popen(sleep, start_new_session=runs_off).pid for runs_off in (False, True)]
    note.with_suffix(".new").write_text(json.dumps(pids))
    note.with_suffix(".new").rename(note)


def _moving_square(spec: RenderSpec) -> Any:
    picture = np.full((spec.frames, spec.height, spec.width, 3), 40, np.uint8)
    for i in range(spec.frames):
        picture[i, 10:40, 2 * i : 2 * i + 30] = (220, spec.seed % 200, 60)
    if spec.image is not None:
        picture[:, :, :] = np.asarray(Image.fromarray(spec.image).resize((spec.width, spec.height)))
        picture[1:, :8, :8] = np.arange(1, spec.frames)[:, None, None, None] * 9 % 255  # something moves
        if spec.fit == "pad":
            picture[:, :4] = picture[:, -4:] = 0
    return picture
