"""Held-out prompts, what a pipeline makes of them, and how sure the share of those it followed is."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Literal, TypeVar

import numpy as np
import torch

from model.demo import captions, probe, world
from model.events import Image, RenderSpec
from model.pipeline import Pipeline, to_uint8

Z = 1.96  # a normal's 95 %
MANY = 64  # clips from which on reading them is spread over processes
DECODED = 8  # clips at once on a card
T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """A held-out scene, the words for it, its seed, and for image-to-video its first frame."""

    scene: world.Scene
    prompt: str
    language: Literal["en", "zh"]
    seed: int
    image: Image | None = None


@dataclass(frozen=True)
class Share:
    """`right` of `count`, with Wilson's 95 % interval."""

    right: int
    count: int

    @property
    def value(self) -> float:
        return self.right / self.count if self.count else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        if not self.count:
            return 0.0, 1.0
        share, n = self.value, self.count
        middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


def held_out_trials(count: int, seed: int = 0, side: int | None = None) -> list[Trial]:
    """Prompts whose combination of shape, colour and motion training never saw; English and Chinese in turn.

    side: of the first frame that an image-to-video model gets; None: text-to-video.
    """
    rng = random.Random(seed)
    trials = []
    for i in range(count):
        scene = world.random_scene(rng, held=True)
        language: Literal["en", "zh"] = "zh" if i % 2 else "en"
        prompt = captions.caption(scene, rng, language, full=True)
        trials.append(Trial(scene, prompt, language, 1000 * seed + i, None if side is None else first(scene, side)))
    return trials


def held_out_many(count: int, seed: int = 0, side: int | None = None) -> list[Trial]:
    """Prompts of several things: two or three of the same and two different ones in turn, as `held_out_trials`."""
    rng = random.Random(seed + 1)
    trials = []
    for i in range(count):
        scene = (world.random_pair if i % 2 else world.random_group)(rng, held=True)
        language: Literal["en", "zh"] = "zh" if i % 4 > 1 else "en"
        prompt = captions.caption(scene, rng, language, full=True)
        image = None if side is None else first(scene, side)
        trials.append(Trial(scene, prompt, language, 1000 * seed + 500_000 + i, image))
    return trials


def first(scene: world.Scene, side: int) -> Image:
    """The scene's first frame as it is drawn: uint8 [side, side, 3]."""
    # One frame alone would be the motion's middle.
    return to_uint8(world.draw([scene], 2, side)[:, :, :1])[0]


@torch.inference_mode()
def render(
    pipeline: Pipeline, trials: Sequence[Trial], steps: int, guidance: float, batch: int = 1
) -> Iterator[probe.Frames]:
    """Each trial's clip, uint8 [t, h, w, 3]. The same batches give the same noise to every model: pairs."""
    p = pipeline.preset
    for chunk in (trials[i : i + batch] for i in range(0, len(trials), batch)):
        specs = [RenderSpec(t.prompt, *p.size, p.frames, steps, t.seed, guidance, image=t.image) for t in chunk]
        noise = torch.cat([pipeline.noise(s) for s in specs])
        rows = [pipeline.text(s) for s in specs]  # with guidance two each: the prompt, then what is led away from
        text = torch.cat([r[i : i + 1] for i in range(len(rows[0])) for r in rows])
        images = [pipeline.condition(t.image, s) for t, s in zip(chunk, specs, strict=True) if t.image is not None]
        condition = torch.cat(images) if images else None
        *_, last = pipeline.denoise(noise, text, specs[0], condition)
        # One by one a card waits for its launches; a CPU keeps a clip in its cache.
        for latents in last.latent.to(pipeline.dtype).split(DECODED if last.latent.is_cuda else 1):
            videos = torch.cat(list(pipeline.parts.vae.stream(latents)), dim=2)
            yield from (to_uint8(video) for video in videos.split(1))


def read(clips: Sequence[probe.Frames]) -> list[probe.Reading]:
    return _each(probe.read, clips)


def _each(see: Callable[[probe.Frames], T], clips: Sequence[probe.Frames]) -> list[T]:
    return [see(c) for c in clips] if len(clips) < MANY else list(_readers().map(see, clips, chunksize=8))


@cache
def _readers() -> ProcessPoolExecutor:
    # Spawned: a forked child would wait for the threads that torch had in its parent.
    return ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))


def verdicts(trials: Sequence[Trial], readings: Sequence[probe.Reading]) -> dict[str, list[bool | None]]:
    """Per property and trial whether the clip shows what the prompt says; None where it says nothing of it."""
    pairs = list(zip(trials, readings, strict=True))
    found: dict[str, list[bool | None]] = {
        name: [getattr(t.scene, name) == getattr(r, name) for t, r in pairs]
        for name in ("colour", "shape", "motion", "background")
    }
    found["direction"] = [
        t.scene.motion == r.motion if t.scene.motion in world.DIRECTION else None for t, r in pairs
    ]
    return found


def many_verdicts(trials: Sequence[Trial], clips: Sequence[probe.Frames]) -> dict[str, list[bool | None]]:
    """Per trial of `held_out_many`: as many as were asked for, all of that colour; both objects, each as named."""
    found: dict[str, list[bool | None]] = {"count": [], "two objects": []}
    for trial, seen in zip(trials, _each(probe.read_objects, clips), strict=True):
        asked = sorted((o.colour, o.shape) for o in world.objects(trial.scene))
        shown = sorted((o.colour, o.shape) for o in seen)
        pair = trial.scene.second is not None
        found["count"].append(None if pair else [c for c, _ in shown] == [c for c, _ in asked])
        found["two objects"].append(shown == asked if pair else None)
    return found


def share(verdict: Sequence[bool | None]) -> Share:
    asked = [v for v in verdict if v is not None]
    return Share(sum(asked), len(asked))


def shares(trials: Sequence[Trial], readings: Sequence[probe.Reading]) -> dict[str, Share]:
    return {name: share(verdict) for name, verdict in verdicts(trials, readings).items()}


def paired_difference(one: Sequence[bool | None], other: Sequence[bool | None]) -> tuple[float, float, float]:
    """How much larger the share of `one` is than that of `other` on the same trials, and its 95 % interval."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return _difference(gained, lost, len(pairs))


def _difference(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    if not n:
        return 0.0, -1.0, 1.0
    value = (gained - lost) / n
    # Agresti & Min 2005: half a trial more in each cell, so that no difference seen is not certainty.
    g, m, n2 = gained + 0.5, lost + 0.5, n + 2
    half = Z * math.sqrt(max(0.0, (g + m) - (g - m) ** 2 / n2)) / n2
    return value, value - half, value + half


def difference(one: Share, other: Share) -> tuple[float, float, float]:
    """The same of two shares of different trials (Newcombe 1998, method 10)."""
    value = one.value - other.value
    (low1, high1), (low2, high2) = one.interval, other.interval
    low = value - math.hypot(one.value - low1, high2 - other.value)
    return value, low, value + math.hypot(high1 - one.value, other.value - low2)


def first_frame_psnr(trials: Sequence[Trial], clips: Sequence[probe.Frames]) -> list[float]:
    """dB between each trial's image and its clip's first frame."""
    found = []
    for trial, clip in zip(trials, clips, strict=True):
        assert trial.image is not None
        error = np.square(trial.image.astype(np.float64) - clip[0]).mean()
        found.append(20 * math.log10(255) - 10 * math.log10(max(float(error), 1e-9)))
    return found
