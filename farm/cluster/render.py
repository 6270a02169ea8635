"""One claim from start to its end: render, encode, check, upload, finish; what each failure means. No Ray."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farm.cluster import device, expander, offering
from farm.cluster.beating import renew_lease
from farm.cluster.card import Card
from farm.cluster.claim import Claim
from farm.cluster.faults import AWAY, Fault, Stopped, classify, with_word_of_card
from farm.cluster.policies import quarantine_policy, stall_limits
from farm.cluster.previews import Previews
from farm.cluster.resident import Pipeline, Resident
from farm.cluster.stages import StageClock
from farm.db import leases
from farm.db.engine import Database
from farm.domain.errors import BrokenVideo
from farm.domain.provenance import tags_of
from farm.domain.states import Outcome, StageName
from farm.domain.worker import Beat
from farm.media.check import check_tags, check_video
from farm.media.encoder import EncodedVideo, Encoder
from farm.media.image import pixels
from farm.media.label import VisibleLabel
from farm.media.stills import Strip, poster, thumbnail
from farm.ops.logging import Log
from farm.settings import Settings
from farm.storage.images import fetch
from farm.storage.store import Store
from model.errors import RenderCancelled
from model.events import Frames, Preview, RenderSpec, Stage, Step

Picture = np.ndarray[Any, np.dtype[np.uint8]]


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
    stills: Mapping[str, bytes]


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
        card: Card | None = None,
    ) -> None:
        self._settings = settings
        self._db = db
        self._store = store
        self._scratch = scratch
        self._resident = resident
        self._log = log
        self._card = card or Card(None)

    def render(self, claim: Claim) -> Result | None:
        """Runs the claim to its end and tells the database. None: it was void from the start."""
        assignment = claim.assignment
        log = self._log.bind(job=assignment.job, epoch=assignment.epoch)
        clock = StageClock(claim)
        path = self._scratch / f"{assignment.job}-{assignment.epoch}.mp4"
        try:
            if not self._begin(claim, log):
                return None
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

    def _begin(self, claim: Claim, log: Log) -> bool:
        """False: the claim is void. Raises Stopped, DatabaseUnavailable."""
        assignment = claim.assignment
        begun: list[bool] = []

        def start() -> None:
            begun.append(leases.start(self._db, assignment.job, assignment.epoch))

        offering.patiently(claim, start, log)
        if not begun[-1]:
            log.info("claim_void")
            return False
        log.info(
            "job_started",
            model=assignment.spec.model,
            size=f"{assignment.spec.width}x{assignment.spec.height}",
        )
        device.reset_peak_memory()
        self._card.begin()
        claim.allow(leases.deadlines(self._db, assignment.spec, stall_limits(self._settings)))
        # The fence counts from a renewal: the first is our own, made after the claim reached us.
        renew_lease(self._db, _beat(claim), claim, self._settings.lease_ttl)
        return True

    def _video(self, claim: Claim, clock: StageClock, path: Path, log: Log) -> _Video:
        """The file, whole and looked at. Raises Stopped, ModelError, BrokenVideo, device errors."""
        spec = claim.assignment.spec
        clock.enter(StageName.LOADING)
        image = None if spec.image is None else pixels(fetch(self._store, spec.image))
        pipeline = self._resident.pipeline(spec.model, spec.model_digest, claim.assignment.memory_plan)
        _raise_if_stopped(claim)
        expanded = self._expanded(claim, clock, log) if spec.expand else None
        wanted = self._resident.spec(spec, image, expanded)
        encoder = Encoder(path, size=(spec.width, spec.height), fps=spec.fps)
        try:
            with Previews(self._store, claim, log) as previews:
                stills = self._frames(claim, clock, pipeline, wanted, encoder, previews)
            clock.enter(StageName.ENCODE)
            tags = tags_of(claim.assignment.job, spec, expanded, self._settings.label_producer)
            encoded = encoder.close(tags)
            check_video(encoded.path, frames=spec.frames, size=(spec.width, spec.height))
            check_tags(encoded.path, tags)
            return _Video(encoded, stills)
        except BaseException:
            encoder.abandon()
            raise

    def _expanded(self, claim: Claim, clock: StageClock, log: Log) -> str | None:
        """The prompt as it is rendered: written down before that. None: as it was typed."""
        assignment = claim.assignment
        if assignment.expanded_prompt is not None:  # by an earlier attempt
            return assignment.expanded_prompt
        clock.enter(StageName.TEXT)
        try:
            text = expander.expand(self._settings, assignment.spec, self._resident.preset(assignment.spec.model))
        except expander.ExpanderFailed as error:
            log.warning("prompt_not_expanded", error=error.message, todo=error.next)
            return None
        kept: list[bool] = []
        offering.patiently(
            claim, lambda: kept.append(leases.expand(self._db, assignment.job, assignment.epoch, text)), log
        )
        if not kept[-1]:
            raise Stopped(Outcome.LOST)
        return text

    def _frames(
        self,
        claim: Claim,
        clock: StageClock,
        pipeline: Pipeline,
        wanted: RenderSpec,
        encoder: Encoder,
        previews: Previews,
    ) -> Mapping[str, bytes]:
        """Feeds the encoder; poster, thumbnail and strip come back."""
        spec = claim.assignment.spec
        label = VisibleLabel(spec.width, spec.height) if self._settings.label_visible else None
        strip = Strip(spec.frames)
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
                        frames = frames if label is None else label.draw(frames)
                        encoder.write(frames)
                        strip.add(first, frames)
                    at = spec.frames // 2 - first
                    if 0 <= at < len(frames):
                        middle = frames[at : at + 1].copy()
            _raise_if_stopped(claim)
        if middle is None:
            raise BrokenVideo("the model gave no frames")
        return {"poster": poster(middle), "thumbnail": thumbnail(middle[0]), "strip": strip.jpeg()}

    def _publish(self, claim: Claim, clock: StageClock, video: _Video, log: Log) -> Result:
        """A finished file is offered even past the fence."""
        clock.enter(StageName.UPLOAD)
        artifact = offering.upload(claim, self._store, video.encoded, video.stills, log)
        timings, peak = clock.stop(), device.peak_memory()
        won = offering.finish(claim, self._db, artifact, timings, peak, log)
        return Result(Outcome.SUCCEEDED if won else Outcome.LOST, won, timings, peak)

    def _failed(self, claim: Claim, clock: StageClock, error: Exception, log: Log) -> Result:
        """Names the class of the failure and tells the database, for as long as it takes."""
        timings, peak = clock.stop(), device.peak_memory()
        # Asked while the watchdog is awake: the driver of a broken card may never answer.
        fault = with_word_of_card(classify(claim, error), self._card.complaint())
        claim.allow({})  # nothing runs that could hang, and the database may be away for longer than any stage may
        if fault.outcome in (Outcome.CANCELLED, Outcome.DRAIN) or isinstance(error, (Stopped, RenderCancelled)):
            log.info("job_stopped", why=fault.outcome, told=claim.told_to_stop())
        else:
            log.error("job_failed", error, outcome=fault.outcome)
        told: list[bool] = []

        def tell() -> None:
            told.append(self._tell(claim, fault, timings, peak))

        try:
            offering.patiently(claim, tell, log, heeding=frozenset({Outcome.LOST}))
        except (Stopped, *AWAY) as trouble:
            log.error("outcome_not_told", trouble)  # the lease runs out, and the reaper requeues the job
            told.append(False)
        return Result(fault.outcome, told[-1], timings, peak, fault.suspect)

    def _tell(self, claim: Claim, fault: Fault, timings: Mapping[str, float], peak: int | None) -> bool:
        """Whether the claim was still ours to end."""
        key = (claim.assignment.job, claim.assignment.epoch)
        match fault.outcome:
            case Outcome.CANCELLED:
                return leases.cancelled(self._db, *key, timings=timings)
            case Outcome.DRAIN | Outcome.DEPENDENCY:
                return leases.give_back(self._db, *key, fault.outcome, fault.error.message)
            case Outcome.LOST if claim.told_to_stop() is Outcome.LOST:
                return False  # somebody else has the job, or will
            case Outcome.LOST if not fault.suspect:
                # It stopped by its own clock, because nobody could renew its lease: that is no one's fault here.
                return leases.give_back(self._db, *key, Outcome.DEPENDENCY, "its lease could not be renewed")
            case _:
                state = leases.fail(
                    self._db, *key, fault.outcome, fault.error, timings=timings, peak_memory=peak,
                    crash_cap=self._settings.crash_cap, quarantine=quarantine_policy(self._settings),
                )  # fmt: skip
                return state is not None


def _raise_if_stopped(claim: Claim) -> None:
    why = claim.must_stop()
    if why is not None:
        raise Stopped(why)


def _beat(claim: Claim) -> Beat:
    assignment = claim.assignment
    return Beat(
        worker=assignment.worker, job=assignment.job, epoch=assignment.epoch, progress=claim.progress,
        models=(), state="busy", memory=device.resident_memory(), jobs_done=0,
    )  # fmt: skip
