"""One claim from start to its end: render, encode, check, upload, finish; what each failure means. No Ray."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farm.cluster import device
from farm.cluster.beating import renew_lease
from farm.cluster.claim import Claim
from farm.cluster.previews import Previews
from farm.cluster.resident import Pipeline, Resident
from farm.cluster.stages import StageClock
from farm.db import leases
from farm.db.engine import Database
from farm.domain.errors import BrokenVideo, DatabaseUnavailable, DiskFull, FolderUnusable, StorageUnavailable
from farm.domain.job import Artifact, Assignment, JobError
from farm.domain.states import Outcome, StageName
from farm.domain.worker import Beat
from farm.media.check import check_video
from farm.media.encoder import EncodedVideo, Encoder
from farm.media.image import ImageRefused, pixels
from farm.media.stills import poster
from farm.ops.logging import Log
from farm.settings import Settings
from farm.storage.images import ImageMissing, fetch
from farm.storage.store import Store
from model.errors import CorruptWeights, ModelError, RenderCancelled
from model.events import Frames, Preview, RenderSpec, Stage, Step

_PATIENCE = 600.0  # seconds that a finished video waits for a store or database that is away
_SLOWEST_RETRY = 15.0
_STOPS = frozenset({Outcome.CANCELLED, Outcome.DRAIN, Outcome.LOST})
_AWAY = (StorageUnavailable, DatabaseUnavailable, DiskFull, FolderUnusable)


Picture = np.ndarray[Any, np.dtype[np.uint8]]


class Stopped(Exception):
    """The claim must not go on; `outcome` says why: CANCELLED, DRAIN or LOST."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class Result:
    """How the attempt ended here. `ours` False: the database had given the job to somebody else."""

    outcome: Outcome
    ours: bool
    timings: Mapping[str, float]
    peak_memory: int | None
    device_suspect: bool = False  # this process must not render again


@dataclass(frozen=True)
class _Video:
    encoded: EncodedVideo
    poster: bytes


class Renderer:
    """What outlives a claim: database, store, the resident model, a folder for unfinished files."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        store: Store,
        scratch: Path,
        resident: Resident,
        log: Log,
    ) -> None:
        self._settings = settings
        self._db = db
        self._store = store
        self._scratch = scratch
        self._resident = resident
        self._log = log

    def render(self, claim: Claim) -> Result | None:
        """Runs the claim to its end and tells the database. None: it was void from the start."""
        assignment = claim.assignment
        log = self._log.bind(job=assignment.job, epoch=assignment.epoch)
        if not leases.start(self._db, assignment.job, assignment.epoch):
            log.info("claim_void")
            return None
        log.info(
            "job_started",
            model=assignment.spec.model,
            size=f"{assignment.spec.width}x{assignment.spec.height}",
        )
        device.reset_peak_memory()
        clock = StageClock(claim)
        path = self._scratch / f"{assignment.job}-{assignment.epoch}.mp4"
        try:
            # The fence counts from a renewal: the first is our own, made after the claim reached us.
            renew_lease(self._db, _beat(claim), claim, self._settings.lease_ttl)
            video = self._video(claim, clock, path, log)
            result = self._publish(claim, clock, video, log)
        except Exception as error:
            result = self._failed(claim, clock, error, log)
        finally:
            with contextlib.suppress(OSError):  # a disk that failed the job may fail here, too
                path.unlink()
        log.info(
            "job_ended", outcome=result.outcome, ours=result.ours, timings=dict(result.timings),
            peak_memory=result.peak_memory,
        )  # fmt: skip
        return result

    def _video(self, claim: Claim, clock: StageClock, path: Path, log: Log) -> _Video:
        """The file, whole and looked at. Raises Stopped, ModelError, BrokenVideo, device errors."""
        spec = claim.assignment.spec
        clock.enter(StageName.LOADING)
        image = None if spec.image is None else pixels(fetch(self._store, spec.image))
        pipeline = self._resident.pipeline(spec.model, spec.model_digest)
        _raise_if_stopped(claim)
        encoder = Encoder(path, size=(spec.width, spec.height), fps=spec.fps)
        try:
            with Previews(self._store, claim, log) as previews:
                middle = self._frames(claim, clock, pipeline, self._resident.spec(spec, image), encoder, previews)
            clock.enter(StageName.ENCODE)
            encoded = encoder.close(_metadata(claim.assignment))
            check_video(encoded.path, frames=spec.frames, size=(spec.width, spec.height))
            return _Video(encoded, poster(middle))
        except BaseException:
            encoder.abandon()
            raise

    def _frames(
        self,
        claim: Claim,
        clock: StageClock,
        pipeline: Pipeline,
        wanted: RenderSpec,
        encoder: Encoder,
        previews: Previews,
    ) -> Picture:
        """Feeds the encoder; the middle frame [1,h,w,3] comes back."""
        spec = claim.assignment.spec
        middle: Picture | None = None
        for event in pipeline.render(wanted, lambda: claim.must_stop() is not None):
            match event:
                case Stage(name):
                    stage = StageName(name)
                    clock.enter(stage, steps=spec.steps if stage is StageName.DENOISE else 0)
                case Step(k, n):
                    claim.report(StageName.DENOISE, k, n)
                case Preview(step, image):
                    previews.offer(step, image)
                case Frames(first, frames):
                    with clock.aside(StageName.ENCODE):
                        encoder.write(frames)
                    at = spec.frames // 2 - first
                    if 0 <= at < len(frames):
                        middle = frames[at : at + 1].copy()
            _raise_if_stopped(claim)
        if middle is None:
            raise BrokenVideo("the model gave no frames")
        return middle

    def _publish(self, claim: Claim, clock: StageClock, video: _Video, log: Log) -> Result:
        """Upload, then the one fenced transaction. A finished file is offered even past the fence."""
        assignment, encoded = claim.assignment, video.encoded
        clock.enter(StageName.UPLOAD)
        artifact = Artifact(
            key=f"{assignment.prefix}/video.mp4", sha256=encoded.sha256, bytes=encoded.bytes,
            frames=encoded.frames, seconds=encoded.seconds, poster_key=f"{assignment.prefix}/poster.jpg",
        )  # fmt: skip

        def upload() -> None:
            self._store.put(artifact.key, encoded.path, encoded.sha256)
            self._store.put_bytes(artifact.poster_key, video.poster)

        self._patiently(claim, upload, log)
        timings, peak = clock.stop(), device.peak_memory()
        won: list[bool] = []

        def finish() -> None:
            won.append(
                leases.finish(self._db, assignment.job, assignment.epoch, artifact, timings, peak_memory=peak)
            )

        self._patiently(claim, finish, log)
        if won[-1]:
            return Result(Outcome.SUCCEEDED, True, timings, peak)
        return Result(Outcome.LOST, False, timings, peak)

    def _patiently(
        self, claim: Claim, act: Callable[[], None], log: Log, heeding: frozenset[Outcome] = _STOPS
    ) -> None:
        """While the store or the database is away: wait and offer again; never render again.

        Only an order in `heeding` ends the waiting. A lease that merely ran out does not: the fence decides.
        """
        waited, pause = 0.0, 0.5
        while True:
            try:
                return act()
            except _AWAY as error:
                if waited >= _PATIENCE:
                    raise
                log.warning("dependency_away", error=error.message, retry_in=pause)
            if claim.told.is_set():  # by an order that may not concern us, and would not let us wait
                time.sleep(pause)
            else:
                claim.told.wait(pause)
            told = claim.told_to_stop()
            if told is not None and told in heeding:
                raise Stopped(told)
            waited, pause = waited + pause, min(2 * pause, _SLOWEST_RETRY)

    def _failed(self, claim: Claim, clock: StageClock, error: Exception, log: Log) -> Result:
        """Names the class of the failure and tells the database, for as long as it takes."""
        timings, peak = clock.stop(), device.peak_memory()
        outcome, said = _classify(claim, error)
        if outcome in (Outcome.CANCELLED, Outcome.DRAIN, Outcome.LOST):
            log.info("job_stopped", why=outcome)
        else:
            log.error("job_failed", error, outcome=outcome)
        assignment = claim.assignment
        key = (assignment.job, assignment.epoch)
        told: list[bool] = []

        def tell() -> None:
            match outcome:
                case Outcome.CANCELLED:
                    told.append(leases.cancelled(self._db, *key, timings=timings))
                case Outcome.DRAIN | Outcome.DEPENDENCY:
                    told.append(leases.give_back(self._db, *key, outcome, said.message))
                case Outcome.LOST:
                    told.append(False)  # nothing to say: the reaper, or whoever has the job now, decides
                case _:
                    state = leases.fail(
                        self._db, *key, outcome, said, timings=timings, peak_memory=peak,
                        crash_cap=self._settings.crash_cap,
                    )  # fmt: skip
                    told.append(state is not None)

        try:
            self._patiently(claim, tell, log, heeding=frozenset({Outcome.LOST}))
        except (Stopped, *_AWAY) as trouble:
            log.error("outcome_not_told", trouble)  # the lease runs out, and the reaper requeues the job
            told.append(False)
        return Result(outcome, told[-1], timings, peak, outcome is Outcome.DEVICE_FAULT)


def _raise_if_stopped(claim: Claim) -> None:
    why = claim.must_stop()
    if why is not None:
        raise Stopped(why)


def _classify(claim: Claim, error: Exception) -> tuple[Outcome, JobError]:
    """The table of outcome classes, read from the top down."""
    if isinstance(error, Stopped):
        return error.outcome, JobError(error.outcome, f"stopped: {error.outcome}")
    if isinstance(error, RenderCancelled):
        # It may have been renewed after all, too late for this render: then the job is ours to give back.
        why = claim.must_stop() or Outcome.DRAIN
        return why, JobError(why, f"stopped: {why}")
    if isinstance(error, CorruptWeights):
        return Outcome.USER_ERROR, JobError("corrupt_weights", error.message, error.next)
    if isinstance(error, ModelError):
        return Outcome.USER_ERROR, JobError("invalid_request", error.message, error.next)
    if isinstance(error, (ImageMissing, ImageRefused)):
        return Outcome.USER_ERROR, JobError(error.code, error.message, error.next)
    if isinstance(error, _AWAY):
        return Outcome.DEPENDENCY, JobError(error.code, error.message, error.next)
    if device.is_out_of_memory(error):
        return Outcome.OUT_OF_MEMORY, JobError("out_of_memory", device.first_line(error))
    # A broken video, a CUDA error, or a fault nobody foresaw: this process is not trusted with another job.
    code = "broken_video" if isinstance(error, BrokenVideo) else "device_fault"
    return Outcome.DEVICE_FAULT, JobError(code, f"{type(error).__name__}: {device.first_line(error)}")


def _metadata(assignment: Assignment) -> dict[str, str]:
    """Written into the file: what it is, and everything that is needed to make it again."""
    return {"title": assignment.spec.prompt, "comment": assignment.spec.canonical(), "job": assignment.job}


def _beat(claim: Claim) -> Beat:
    assignment = claim.assignment
    return Beat(
        worker=assignment.worker, job=assignment.job, epoch=assignment.epoch, progress=claim.progress,
        models=(), state="busy", memory=device.resident_memory(), jobs_done=0,
    )  # fmt: skip
