"""Models and images on real workers: each job finds the worker that has its weights, and its first frame."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farm.cluster.claim import Claim
from farm.cluster.poke import poke
from farm.db import jobs, models, submission
from farm.domain.errors import StorageUnavailable
from farm.domain.job import JobSpec, NewJob
from farm.domain.states import JobState, Outcome
from farm.media.check import decode
from farm.media.image import take_in
from farm.storage.images import image_key, keep
from farm.storage.store import Store, open_store
from model.library import Library
from tests.cluster.conftest import Farm, make_farm, started, until
from tests.cluster.fake_model import DIGEST
from tests.cluster.test_render import Workplace, place
from tests.library import I2V, write_component, write_library

__all__ = ["place"]


def first_frame(colour: tuple[int, int, int] = (200, 40, 40)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (96, 64), colour).save(out, "PNG")
    return out.getvalue()


def kept(store: Store) -> str:
    taken = take_in(first_frame())
    return keep(store, taken.png, taken.thumbnail)


def spec(image: str | None, digest: str, **more: object) -> JobSpec:
    said = {
        "kind": "i2v", "model": I2V.name, "model_digest": digest, "prompt": "it moves", "width": 96, "height": 64,
        "frames": 9, "fps": 12, "steps": 4, "seed": 7, "guidance": 1.0, "image": image,
    }  # fmt: skip
    return JobSpec(**{**said, **more})  # type: ignore[arg-type]


def shown(store: Store, key: str, tmp_path: Path) -> np.ndarray:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"".join(store.open(key)))
    return decode(path)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """One worker, on a node whose library has an image-to-video model."""
    home = tmp_path_factory.mktemp("farm")
    write_library(home / "models")
    with started(make_farm(home, workers=1, pipeline="tests.cluster.fake_model:Pipeline"), 1) as farm:
        yield farm


def send(farm: Farm, wanted: JobSpec) -> str:
    job = submission.submit(farm.db, [NewJob(wanted)])[0].job.id
    poke(farm.settings)
    return job


def test_a_worker_says_what_its_node_has(farm: Farm) -> None:
    library = Library(farm.settings.models)
    (worker,) = farm.wait_idle()
    assert worker.available is not None
    assert worker.available[I2V.name] == library.digest(I2V)
    assert {m.name for m in models.find(farm.db) if m.workers} == {"demo-t2v", "demo-i2v", I2V.name}
    until("the resident model is told", lambda: farm.workers()[0].models == (DIGEST,))


def test_a_job_of_absent_weights_waits_and_holds_up_nobody(farm: Farm) -> None:
    """The other one's weights are those that the worker still holds from its start."""
    waiting = send(farm, spec(kept(open_store(farm.settings.store)), "weights that nobody has", seed=1))
    done = farm.wait_final(farm.submit("a square"))
    assert done.state is JobState.SUCCEEDED
    assert farm.job(waiting).state is JobState.QUEUED
    assert jobs.attempts(farm.db, waiting) == []
    jobs.cancel(farm.db, waiting)


def test_a_video_begins_with_the_image_it_was_given(farm: Farm, tmp_path: Path) -> None:
    store = open_store(farm.settings.store)
    job = farm.wait_final(send(farm, spec(kept(store), Library(farm.settings.models).digest(I2V), fit="pad")))
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.artifact is not None
    video = shown(store, job.artifact.key, tmp_path)
    assert abs(video[0, 40, 50].astype(int) - (200, 40, 40)).max() < 25
    assert video[0, 1, 50].max() < 40, "padded"
    assert "image" in jobs.attempts(farm.db, job.id)[0].timings


def test_a_model_that_is_brought_in_while_workers_run_is_offered_without_a_restart(
    farm: Farm, tmp_path: Path
) -> None:
    late = dataclasses.replace(I2V, name="late-i2v")
    write_component(farm.settings.models, late.name, "transformer", preset=late, content=b"late")
    digest = Library(farm.settings.models).digest(late)
    job = send(farm, spec(kept(open_store(farm.settings.store)), digest, model=late.name))
    assert farm.wait_final(job).state is JobState.SUCCEEDED
    (worker,) = farm.workers()
    assert (worker.available or {})["late-i2v"] == digest


def submit_here(place: Workplace, image: str) -> str:
    library = write_library(place.settings.models)
    return submission.submit(place.db, [NewJob(spec(image, library.digest(I2V)))])[0].job.id


def test_an_image_that_is_gone_fails_the_job_for_good_and_says_so(place: Workplace) -> None:
    job = submit_here(place, "0" * 64)
    result = place.render(Claim(place.claim(job), 20.0))
    assert (result.outcome, result.device_suspect) == (Outcome.USER_ERROR, False)
    ended = jobs.get(place.db, job)
    assert ended.state is JobState.FAILED
    assert ended.error is not None
    assert (ended.error.code, "no longer in the store" in ended.error.message) == ("image_missing", True)
    assert "upload it again" in ended.error.next


def test_an_image_that_was_changed_in_the_store_is_not_rendered(place: Workplace) -> None:
    digest = kept(place.store)
    place.store.put_bytes(image_key(digest), first_frame((0, 0, 0)))
    job = submit_here(place, digest)
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.USER_ERROR
    error = jobs.get(place.db, job).error
    assert error is not None
    assert "was changed in the store" in error.message


def test_a_store_that_is_away_when_the_image_is_needed_costs_no_blame(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit_here(place, kept(place.store))

    def away(*_: object) -> object:
        raise StorageUnavailable("the store is away")

    monkeypatch.setattr(place.store, "open", away)
    assert place.render(Claim(place.claim(job), 20.0)).outcome is Outcome.DEPENDENCY
    waiting = jobs.get(place.db, job)
    assert (waiting.state, waiting.failures) == (JobState.QUEUED, 0)
