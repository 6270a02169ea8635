"""A worker played by a test: it takes real leases and publishes real videos, one step at a time."""

import asyncio
import math
import tempfile
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from farm.db import leases, workers
from farm.db.engine import Database
from farm.domain.job import Artifact, Assignment, JobError, Progress
from farm.domain.provenance import tags_of
from farm.domain.states import JobState, Outcome, StageName
from farm.domain.worker import Beat, Load, NewWorker
from farm.media.encoder import Encoder
from farm.media.stills import Strip, jpeg, poster, thumbnail
from farm.storage.keys import beside
from farm.storage.store import Store

T = TypeVar("T")
TIMINGS = {"loading": 0.4, "text": 0.02, "denoise": 2.125, "decode": 0.31, "encode": 0.05, "upload": 0.01}


def until(what: Callable[[], T], seconds: float = 20.0) -> T:
    """Waits for a condition, never for a duration; returns what it found."""
    end = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def in_a_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns. On a thread: a browser that is open in this process keeps a loop of its own running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def ball(t: float, size: int = 96, colour: tuple[int, int, int] = (220, 40, 50)) -> np.ndarray:
    """One frame [size, size, 3] of a ball that moves from left (t = 0) to right (t = 1)."""
    y, x = np.mgrid[0:size, 0:size]
    inside = np.hypot(x - size * (0.25 + 0.5 * t), y - size / 2) < size * 0.18
    frame = np.full((size, size, 3), 16, np.uint8)
    frame[inside] = colour
    return frame


class Machine:
    """One worker, without `card` on CPU cores. `take()` claims and starts; then step(), and finish() or another."""

    def __init__(
        self, db: Database, store: Store, name: str = "w1", pid: int = 4711, node: str = "studio", card: str = ""
    ) -> None:
        self.db, self.store, self.name = db, store, name
        self.job: Assignment | None = None
        self.done = 0
        self.load: Load | None = None
        gpu = f"GPU-7c1d-{name}" if card else f"cpu:{node}:{name[-1]}"
        memory = 80 << 30 if card else None
        workers.register(db, NewWorker(name, node, gpu, card or "2 CPU cores", pid, memory_total=memory))
        self.beat("idle")

    def beat(self, state: str, progress: Progress | None = None) -> None:
        job, epoch = (self.job.job, self.job.epoch) if self.job else (None, 0)
        said = Beat(self.name, job, epoch, progress, ("digest",), state, 612_000_000, self.done, self.load)
        workers.beat(self.db, [said])
        if self.job:
            leases.renew(self.db, [said])

    def take(self, lane: str = "local/default/interactive/demo-t2v") -> Assignment:
        self.job = leases.claim(self.db, self.name, lane)
        assert self.job is not None, "nothing to claim"
        assert leases.start(self.db, self.job.job, self.job.epoch)
        self.beat("busy", Progress(StageName.LOADING, worker=self.name))
        return self.job

    def step(self, k: int, preview: bool = True, n: int = 16, picture: np.ndarray | None = None) -> None:
        """`picture`: what the preview is to become, [h, w, 3]."""
        assert self.job is not None
        if preview:
            whole = ball(0.5) if picture is None else picture
            noise = np.random.default_rng(k).integers(0, 255, whole.shape, np.uint8)
            mixed = whole.astype(float) * k / n + noise * (1 - k / n)
            self.store.put_bytes(self.job.preview_key(k), jpeg(mixed.astype(np.uint8)))
        self.beat("busy", Progress(StageName.DENOISE, k, n, k if preview else None, self.name))

    def finish(self, colour: tuple[int, int, int] = (220, 40, 50), frames: np.ndarray | None = None) -> Artifact:
        assert self.job is not None
        job, spec = self.job, self.job.spec
        if frames is None:
            turns = [math.sin(i / spec.frames * math.pi) for i in range(spec.frames)]
            frames = np.stack([ball(turn, spec.width, colour) for turn in turns])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            encoder = Encoder(path, (spec.width, spec.height), spec.fps)
            encoder.write(frames)
            video = encoder.close(tags_of(job.job, spec))
            key, poster_key = f"{job.prefix}/video.mp4", f"{job.prefix}/poster.jpg"
            self.store.put(key, path, video.sha256)
        self.store.put_bytes(poster_key, poster(frames))
        strip = Strip(spec.frames)
        strip.add(0, frames)
        self.store.put_bytes(beside(key, "thumbnail"), thumbnail(frames[0]))
        self.store.put_bytes(beside(key, "strip"), strip.jpeg())
        made = Artifact(key, video.sha256, video.bytes, video.frames, video.seconds, poster_key)
        assert leases.finish(self.db, job.job, job.epoch, made, TIMINGS)
        self._free()
        return made

    def die(self) -> JobState | None:
        """As a SIGKILL in mid-job is seen: the death notice puts the job back."""
        assert self.job is not None
        state = leases.lost(self.db, self.job.job, self.job.epoch, "the worker's process was killed (SIGKILL)")
        workers.gone(self.db, self.name)
        self.job = None
        return state

    def fail(self, message: str = "the prompt has 80 words, the demo model reads 63") -> None:
        assert self.job is not None
        error = JobError("prompt_too_long", message, "say it with fewer words")
        leases.fail(self.db, self.job.job, self.job.epoch, Outcome.USER_ERROR, error)
        self._free()

    def stop(self) -> None:
        """Obeys a cancel."""
        assert self.job is not None
        assert leases.cancelled(self.db, self.job.job, self.job.epoch)
        self._free()

    def _free(self) -> None:
        self.job = None
        self.done += 1
        self.beat("idle")
