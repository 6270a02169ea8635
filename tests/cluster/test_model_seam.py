"""Our own model on the far side of the seam: what the tests' fake has, it has, and the worker's room renders it."""

import dataclasses
from pathlib import Path

import pytest

from farm.cluster.claim import Claim
from farm.cluster.render import Renderer
from farm.cluster.resident import Resident
from farm.db import jobs, leases, submission, workers
from farm.db.engine import migrate, open_database
from farm.domain.job import JobSpec, NewJob
from farm.domain.states import JobState
from farm.domain.worker import NewWorker
from farm.media.check import decode
from farm.ops.logging import start_log
from farm.settings import load_settings
from farm.storage.store import open_store
from model.library import Library
from model.wan.config import preset
from tests.cluster import fake_model


@pytest.mark.parametrize("word", ["RenderSpec", "Stage", "Step", "Preview", "Frames"])
def test_the_fake_speaks_the_words_of_the_model(word: str):
    from model import pipeline

    ours, fake = getattr(pipeline, word), getattr(fake_model, word)
    assert [f.name for f in dataclasses.fields(fake)] == [f.name for f in dataclasses.fields(ours)]


def test_the_demo_model_renders_a_claim(tmp_path: Path):
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    log = start_log("worker", settings.log_dir)
    resident = Resident(settings.pipeline, Library(settings.models), "cpu", log)
    store = open_store(settings.store)
    renderer = Renderer(settings, db, store, settings.scratch_dir, resident, log)
    workers.register(db, NewWorker("w", "node", "cpu:node:0", "CPU", 1))
    spec = JobSpec(
        kind="t2v", model="demo-t2v", model_digest=Library().digest(preset("demo-t2v")),
        prompt="a red circle moves left", width=96, height=96, frames=17, fps=12, steps=2, seed=1, guidance=3.0,
    )  # fmt: skip
    job = submission.submit(db, [NewJob(spec)])[0].job
    assignment = leases.claim(db, "w", job.lane)
    assert assignment is not None
    renderer.render(Claim(assignment, 30.0))
    ended = jobs.get(db, job.id)
    assert ended.state is JobState.SUCCEEDED, ended.error
    assert ended.artifact is not None
    path = tmp_path / "video.mp4"
    path.write_bytes(b"".join(store.open(ended.artifact.key)))
    assert decode(path).shape == (17, 96, 96, 3)
    left = {key.rpartition("/")[2] for key in store.list(assignment.prefix)}
    assert {"video.mp4", "video.mp4.sha256", "poster.jpg"} <= left
    db.close()
