"""What becomes of one claim when the things around it fail: real database, encoder and store, no Ray."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.cluster import offering
from farm.cluster.card import Card
from farm.cluster.claim import Claim, steady_clock
from farm.cluster.faults import classify
from farm.cluster.render import Renderer, Result
from farm.cluster.resident import Resident
from farm.db import jobs, leases, quarantines, submission, workers
from farm.db.engine import Database, migrate, open_database
from farm.domain.errors import (
    BlackVideo,
    BrokenVideo,
    DatabaseUnavailable,
    FrozenNoise,
    StorageRefused,
    StorageUnavailable,
    TagsLost,
)
from farm.domain.job import Assignment, JobSpec, NewJob, Progress
from farm.domain.provenance import read_back
from farm.domain.states import JobState, Order, Outcome
from farm.domain.worker import Beat, NewWorker
from farm.media.check import decode
from farm.media.encoder import Encoder
from farm.media.mp4 import read_tags
from farm.ops.logging import start_log
from farm.settings import Settings, load_settings
from farm.storage.folder import FolderStore
from model.errors import CorruptWeights, NotNumbers
from model.library import Library
from tests.cluster.fake_model import DIGEST, Pipeline


class Unreliable(FolderStore):
    """Does `before` in front of every upload of a video."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def put(self, key: str, path: Path, sha256: str) -> None:
        self.before()
        super().put(key, path, sha256)


class Workplace:
    """A worker's room without its process."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings = settings
        self.db = db
        self.store = Unreliable(Path(settings.store))
        log = start_log("worker", settings.log_dir)
        self.renderer = Renderer(
            settings,
            db,
            self.store,
            settings.scratch_dir,
            Resident(settings.pipeline, Library(settings.models), "cpu", log),
            log,
        )
        for name in ("here", "there"):
            workers.register(db, NewWorker(name, "node", f"cpu:node:{name}", "CPU", 1))

    def submit(self, prompt: str = "a square") -> str:
        spec = JobSpec("t2v", "demo-t2v", DIGEST, prompt, 96, 96, 17, 12, 4, 7, 3.0)
        return submission.submit(self.db, [NewJob(spec)])[0].job.id

    def claim(self, job: str, worker: str = "here") -> Assignment:
        assignment = leases.claim(self.db, worker, jobs.get(self.db, job).lane, ttl=self.settings.lease_ttl)
        assert assignment is not None
        return assignment

    def log_lines(self) -> list[dict[str, Any]]:
        text = (self.settings.log_dir / "worker.log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def render(self, claim: Claim) -> Result:
        result = self.renderer.render(claim)
        assert result is not None
        return result


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    settings = load_settings(home=tmp_path, pipeline="tests.cluster.fake_model:Pipeline", lease_ttl=20.0)
    settings.make_folders()
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    yield Workplace(settings, db)
    db.close()


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every render that begins."""
    begun: list[int] = []
    real = Pipeline.render

    def counted(self: Pipeline, spec: Any, cancelled: Any) -> Any:
        begun.append(1)
        return real(self, spec, cancelled)

    monkeypatch.setattr(Pipeline, "render", counted)
    return begun


def test_the_first_renewal_of_a_claim_forgets_nothing_of_its_worker(place: Workplace):
    beat = Beat("here", None, 0, None, ("digest",), "idle", 5_000, 7)
    workers.beat(place.db, [beat])
    place.render(Claim(place.claim(place.submit()), 20.0))
    (here,) = [w for w in workers.find(place.db) if w.id == "here"]
    assert (here.jobs_done, here.models, here.memory) == (7, ("digest",), 5_000)


def test_a_store_that_is_away_costs_no_second_render(place: Workplace, renders: list[int]):
    faults = [StorageUnavailable("away"), StorageUnavailable("still away")]

    def before() -> None:
        if faults:
            raise faults.pop()

    place.store.before = before
    job = place.submit()
    result = place.render(Claim(place.claim(job), 20.0))
    assert (result.outcome, result.ours, len(renders)) == (Outcome.SUCCEEDED, True, 1)
    assert jobs.get(place.db, job).state is JobState.SUCCEEDED


def test_a_database_that_is_away_at_the_end_costs_no_second_render(
    place: Workplace, renders: list[int], monkeypatch: pytest.MonkeyPatch
):
    faults = [DatabaseUnavailable("away")]
    real = leases.finish

    def finish(*args: Any, **kwargs: Any) -> bool:
        if faults:
            raise faults.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(offering.leases, "finish", finish)
    job = place.submit()
    assert place.render(Claim(place.claim(job), 20.0)).ours
    assert len(renders) == 1
    assert jobs.get(place.db, job).state is JobState.SUCCEEDED


def test_while_the_store_is_away_people_see_that_it_is_tried_again(place: Workplace):
    claim = Claim(place.claim(place.submit()), 20.0)
    seen: list[Progress] = []

    def before() -> None:
        seen.append(claim.progress)
        if len(seen) < 3:
            raise StorageUnavailable("the bucket is gone")

    place.store.before = before
    assert place.render(claim).ours
    assert [(at.stage, at.k, at.n) for at in seen] == [("upload", 0, 0), ("upload", 1, 0), ("upload", 2, 0)]
    waits = [line for line in place.log_lines() if line["event"] == "dependency_away"]
    assert [(line["waiting_for"], line["error"]) for line in waits] == [("storage", "the bucket is gone")] * 2


def test_a_store_that_refuses_this_worker_for_long_leaves_the_job_to_others(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
):
    def before() -> None:
        raise StorageRefused("the key is wrong")

    place.store.before = before
    monkeypatch.setattr(offering, "_REFUSED", 0.0)
    job = place.submit()
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.DEPENDENCY
    after = jobs.get(place.db, job)
    assert (after.state, after.failures) == (JobState.QUEUED, 0)
    assert jobs.attempts(place.db, job)[0].cause == "the key is wrong"


def test_cancel_ends_the_waiting_for_a_store(place: Workplace):
    job = place.submit()
    claim = Claim(place.claim(job), 20.0)

    def before() -> None:
        jobs.cancel(place.db, job)
        claim.heed(Order.CANCEL)
        raise StorageUnavailable("away")

    place.store.before = before
    assert place.render(claim).outcome is Outcome.CANCELLED
    assert jobs.get(place.db, job).state is JobState.CANCELLED


def test_past_its_fence_a_worker_renders_no_more(place: Workplace, renders: list[int]):
    """It gives the job back without blame: it could not be renewed, and that was nobody's fault here."""
    now = [steady_clock()]
    job = place.submit()
    claim = Claim(place.claim(job), 20.0, clock=lambda: now[0])
    claim.report = lambda *_: now.__setitem__(0, now[0] + 19.0)  # type: ignore[method-assign]
    claim.renewed = lambda _: None  # type: ignore[method-assign]  # its renewals do not get through
    assert place.render(claim).outcome is Outcome.LOST
    after = jobs.get(place.db, job)
    assert (after.state, after.failures) == (JobState.QUEUED, 0)
    (attempt,) = jobs.attempts(place.db, job)
    assert (attempt.outcome, attempt.cause) == (Outcome.DEPENDENCY, "its lease could not be renewed")


def test_whoever_waits_to_tell_how_it_ended_does_not_hang(place: Workplace, monkeypatch: pytest.MonkeyPatch):
    """A database that was away for minutes would cost the process, and its job blame."""
    now = [steady_clock()]
    job = place.submit("bug")
    claim = Claim(place.claim(job), 20.0, clock=lambda: now[0])
    seen: list[object] = []
    real = leases.fail

    def fail(*args: Any, **kwargs: Any) -> Any:
        now[0] += 10_000.0
        seen.append(claim.overdue())
        if len(seen) < 2:
            raise DatabaseUnavailable("away")
        return real(*args, **kwargs)

    monkeypatch.setattr(leases, "fail", fail)
    assert place.render(claim).ours
    assert seen == [None, None]


def test_past_its_fence_it_takes_nothing_from_whoever_has_the_job_now(place: Workplace):
    now = [steady_clock()]
    job = place.submit()
    claim = Claim(place.claim(job), 20.0, clock=lambda: now[0])

    def report(*_: object) -> None:
        if now[0] == before:
            leases.lost(place.db, job, 1, "taken for dead")
            place.claim(job, "there")
        now[0] += 19.0

    before = now[0]
    claim.report = report  # type: ignore[method-assign]
    claim.renewed = lambda _: None  # type: ignore[method-assign]
    result = place.render(claim)
    assert (result.outcome, result.ours) == (Outcome.LOST, False)
    after = jobs.get(place.db, job)
    assert (after.state, after.epoch) == (JobState.LEASED, 2)


def test_a_finished_video_is_offered_even_past_the_fence(place: Workplace):
    now = [steady_clock()]
    job = place.submit()
    claim = Claim(place.claim(job), 20.0, clock=lambda: now[0])
    faults = [StorageUnavailable("away")]

    def before() -> None:
        now[0] += 1000.0
        if faults:
            raise faults.pop()

    place.store.before = before
    assert place.render(claim).ours
    assert claim.fenced
    assert jobs.get(place.db, job).state is JobState.SUCCEEDED


def test_a_finished_video_of_a_job_that_somebody_else_has_changes_nothing(place: Workplace):
    job = place.submit()
    claim = Claim(place.claim(job), 20.0)

    def before() -> None:
        leases.lost(place.db, job, 1, "taken for dead")
        place.claim(job, "there")

    place.store.before = before
    result = place.render(claim)
    assert not result.ours
    after = jobs.get(place.db, job)
    assert (after.state, after.epoch, after.artifact) == (JobState.LEASED, 2, None)
    (said,) = [line for line in place.log_lines() if line["event"] == "finished_too_late"]
    assert (said["epoch"], said["discarded"]) == (1, f"videos/{job}/1/video.mp4")
    assert jobs.attempts(place.db, job)[0].outcome is Outcome.LOST


def test_a_drained_job_goes_back_without_blame(place: Workplace):
    job = place.submit()
    claim = Claim(place.claim(job), 20.0)
    claim.heed(Order.DRAIN)
    assert place.render(claim).outcome is Outcome.DRAIN
    after = jobs.get(place.db, job)
    assert (after.state, after.failures) == (JobState.QUEUED, 0)
    assert not list(place.settings.scratch_dir.iterdir())


def test_weights_other_than_promised_are_refused(place: Workplace):
    spec = JobSpec("t2v", "demo-t2v", "another digest", "a square", 96, 96, 17, 12, 4, 7, 3.0)
    job = submission.submit(place.db, [NewJob(spec)])[0].job.id
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.USER_ERROR
    error = jobs.get(place.db, job).error
    assert error is not None
    assert error.code == "corrupt_weights"


def test_a_database_that_is_away_at_the_beginning_is_waited_for(place: Workplace, monkeypatch: pytest.MonkeyPatch):
    """A claim that was dropped would cost its job a lease, and blame."""
    faults = [DatabaseUnavailable("away")]
    real = leases.start

    def start(*args: Any) -> bool:
        if faults:
            raise faults.pop()
        return real(*args)

    monkeypatch.setattr(leases, "start", start)
    job = place.submit()
    assert place.render(Claim(place.claim(job), 20.0)).ours
    assert jobs.get(place.db, job).epoch == 1


def test_a_void_claim_is_not_rendered(place: Workplace, renders: list[int]):
    job = place.submit()
    claim = Claim(place.claim(job), 20.0)
    leases.recall(place.db, job, 1)
    assert place.renderer.render(claim) is None
    assert not renders


def test_what_does_not_fit_is_tried_again_with_a_smaller_plan(place: Workplace):
    job = place.submit("large")
    first = place.claim(job)
    assert first.memory_plan == 0
    assert place.render(Claim(first, 20.0)).outcome is Outcome.OUT_OF_MEMORY
    second = place.claim(job)
    assert second.memory_plan == 1
    assert place.render(Claim(second, 20.0)).outcome is Outcome.SUCCEEDED
    assert jobs.get(place.db, job).failures == 0, "nobody's fault"
    loaded = [line["memory_plan"] for line in place.log_lines() if line["event"] == "model_loaded"]
    assert loaded == [0, 1]
    # What keeps less on the card renders the next job as well.
    place.render(Claim(place.claim(place.submit()), 20.0))
    assert len([line for line in place.log_lines() if line["event"] == "model_loaded"]) == 2


def test_a_finished_video_has_its_tags_its_checksum_and_its_stills_beside_it(place: Workplace, tmp_path: Path):
    job = place.submit("一个方块")
    place.render(Claim(place.claim(job), 20.0))
    made = jobs.get(place.db, job)
    assert made.artifact is not None
    folder = Path(place.settings.store) / made.artifact.key
    told = read_back(read_tags(folder))
    assert told is not None
    assert (JobSpec(**told.settings), told.job) == (made.spec, job)
    assert told.label["ContentProducer"] == "turbofarm"
    assert folder.with_name("video.mp4.sha256").read_text() == f"{made.artifact.sha256}  video.mp4\n"
    for name in ("poster", "thumbnail", "strip"):
        assert folder.with_name(f"{name}.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_a_file_that_lost_its_tags_is_no_success(place: Workplace, monkeypatch: pytest.MonkeyPatch):
    real = Encoder.close

    def forgetful(self: Encoder, metadata: Any) -> Any:
        return real(self, {name: value for name, value in metadata.items() if name != "job"})

    monkeypatch.setattr(Encoder, "close", forgetful)
    job = place.submit()
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.LOST
    assert jobs.get(place.db, job).artifact is None
    assert any("the tag job" in str(line) for line in place.log_lines())


def test_who_answers_for_the_videos_stands_in_the_label_and_in_the_picture(place: Workplace):
    shown = place.settings.model_copy(update={"label_producer": "示例工作室", "label_visible": True})
    place.renderer._settings = shown
    job = place.submit()
    place.render(Claim(place.claim(job), 20.0))
    made = jobs.get(place.db, job).artifact
    assert made is not None
    path = Path(place.settings.store) / made.key
    told = read_back(read_tags(path))
    assert told is not None
    assert told.label["ContentProducer"] == "示例工作室"
    corner = decode(path)[:, -16:, -60:].astype(int)
    assert (corner.max(axis=(1, 2, 3)) > 150).all(), "white letters in every frame"


@pytest.mark.parametrize(
    ("error", "outcome", "suspect"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Outcome.DEVICE_FAULT, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Outcome.DEVICE_FAULT, True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Outcome.DEVICE_FAULT, True),
        (RuntimeError("NVRM: Xid 79, GPU has fallen off the bus"), Outcome.DEVICE_FAULT, True),
        (BrokenVideo("video.mp4 has 3 of 17 frames"), Outcome.DEVICE_FAULT, True),
        (BlackVideo("video.mp4 is black from start to end"), Outcome.DEVICE_FAULT, True),
        (FrozenNoise("video.mp4 is one frozen image of noise"), Outcome.DEVICE_FAULT, True),
        (NotNumbers("the latent of step 3"), Outcome.DEVICE_FAULT, True),
        (TagsLost("the tag seed reads None"), Outcome.LOST, True),  # no card writes tags
        (RuntimeError("CUDA error: out of memory"), Outcome.OUT_OF_MEMORY, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), Outcome.OUT_OF_MEMORY, False),
        (MemoryError(), Outcome.OUT_OF_MEMORY, False),
        (KeyError("decimal"), Outcome.LOST, True),  # a word that only looks like one of the device's
        (CorruptWeights("a", "b"), Outcome.USER_ERROR, False),
        (StorageUnavailable("away"), Outcome.DEPENDENCY, False),
    ],
)
def test_whose_fault_it_is(place: Workplace, error: Exception, outcome: Outcome, suspect: bool):
    fault = classify(Claim(place.claim(place.submit()), 20.0), error)
    assert (fault.outcome, fault.suspect) == (outcome, suspect)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"uncorrected": 2}, {"uncorrected": 5}, "uncorrected memory errors (ECC) of the card meanwhile: 3"),
        ({}, {"lost": 15}, "the driver has lost the card: GPU is lost"),
        ({"uncorrected": 2}, {"uncorrected": 2}, None),
        ({}, {"lost": 999}, None),
    ],
)
def test_a_failure_that_nobody_foresaw_is_the_cards_where_the_card_says_so(
    place: Workplace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    before: dict[str, int],
    after: dict[str, int],
    said: str | None,
):
    def card_is(how: dict[str, int]) -> None:
        (tmp_path / "new").write_text(json.dumps({"GPU-a": how}))
        (tmp_path / "new").rename(tmp_path / "use")

    monkeypatch.setenv("FARM_NVML", "tests.cluster.fake_nvml")
    monkeypatch.setenv("FAKE_GPUS", "GPU-a")
    monkeypatch.setenv("FAKE_GPU_USE", str(tmp_path / "use"))
    begun = threading.Event()

    class Watched(Card):
        def begin(self) -> None:
            super().begin()
            begun.set()

    monkeypatch.setattr(place.renderer, "_card", Watched("GPU-a"))
    results: list[Result] = []
    for n in range(2):
        card_is(before)
        gate = tmp_path / f"gate-{n}"
        job = place.submit(f"gate={gate} bug")
        claim = Claim(place.claim(job), 20.0)
        rendering = threading.Thread(target=lambda claim=claim: results.append(place.render(claim)), daemon=True)
        rendering.start()
        assert begun.wait(30)
        begun.clear()
        card_is(after)
        gate.touch()
        rendering.join(30)
        assert results[n].device_suspect
        (attempt,) = jobs.attempts(place.db, job)
        assert attempt.outcome is (Outcome.DEVICE_FAULT if said else Outcome.LOST)
        assert attempt.cause is not None
        assert attempt.cause.startswith("KeyError")
        assert attempt.cause.partition("; ")[2] == (said or "")
        jobs.cancel(place.db, job)  # it would be the next one, too
    assert len(quarantines.find(place.db)) == (1 if said else 0), "two jobs with such faults set it aside"
