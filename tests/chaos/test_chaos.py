"""`farm chaos` on a farm of real processes, for a few seconds; and its audit, which must see what is wrong."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from farm.chaos.audit import audit
from farm.chaos.journal import Accepted, FaultRecord, Journal, Kind
from farm.db import jobs, leases
from farm.db.engine import Database, migrate, open_database
from farm.domain.job import Artifact, JobError
from farm.domain.states import JobState, Outcome
from farm.media.encoder import Encoder
from farm.storage.folder import FolderStore
from tests.db.conftest import LANE, Clock, register, submit_one

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)  # a farm starts, burns and comes to rest, and the machine may be busy
def test_a_farm_under_fire_keeps_its_promises() -> None:
    options = ["--minutes", "0.1", "--seed", "7", "--workers", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "farm.cli.main", "chaos", *options],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert report["faults"] >= 1
    assert report["accepted"] >= 1
    assert report["drained_after"] is not None
    assert report["videos_whole"] == report["jobs"].get("succeeded", 0)
    where = re.search(r"^A farm on http://\S+, in (\S+)$", done.stderr, re.MULTILINE)
    assert where is not None, done.stderr
    assert not Path(where[1]).exists(), "a run without violations leaves nothing behind"


class Audited:
    """A database and a store as a farm leaves them, with one job that succeeded."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'farm.db'}"
        migrate(self.url)
        self.clock = Clock()
        self.db: Database = open_database(self.url, self.clock)
        self.store = FolderStore(folder / "store")
        self.journal = Journal()
        self._video = folder / "video.mp4"
        register(self.db)
        self.job = self.accept()
        self.succeed(self.job)

    def accept(self) -> str:
        job = submit_one(self.db)
        self.journal.accepted[job.id] = Accepted(job.id, None, job.spec.frames, (job.spec.width, job.spec.height))
        return job.id

    def claim(self) -> None:
        assert leases.claim(self.db, "w1", LANE)

    def succeed(self, job: str) -> None:
        import numpy as np

        self.claim()
        with Encoder(self._video, (96, 96), 12) as encoder:
            frames = np.full((17, 96, 96, 3), 60, np.uint8)
            frames[np.arange(17), :, np.arange(17)] = 200
            encoder.write(frames)
            made = encoder.close({})
        key = f"videos/{job}/1/video.mp4"
        self.store.put(key, made.path, made.sha256)
        artifact = Artifact(key, made.sha256, made.bytes, made.frames, made.seconds, f"videos/{job}/1/poster.jpg")
        assert leases.finish(self.db, job, 1, artifact, {})

    def poison(self) -> str:
        job = self.accept()
        for epoch in (1, 2, 3):
            register(self.db, f"w{epoch}")
            assert leases.claim(self.db, f"w{epoch}", LANE)
            leases.start(self.db, job, epoch)
            leases.fail(self.db, job, epoch, Outcome.DEVICE_FAULT, JobError("device_fault", "Xid 79"))
        return job

    def sql(self, statement: str) -> None:
        with self.db.write() as conn:
            conn.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            conn.exec_driver_sql(statement)

    def violations(self) -> list[str]:
        return audit(self.db, self.store, self.journal, crash_cap=3).violations


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Audited]:
    audited = Audited(tmp_path)
    yield audited
    audited.db.close()


def test_a_farm_that_kept_its_promises_passes(farm: Audited) -> None:
    found = audit(farm.db, farm.store, farm.journal, crash_cap=3)
    assert (found.violations, found.videos) == ([], 1)


def test_a_job_that_was_accepted_and_is_gone_is_missed(farm: Audited) -> None:
    farm.journal.accepted["job_gone"] = replace(farm.journal.accepted[farm.job], job="job_gone")
    assert [v.split(":")[0] for v in farm.violations()] == ["lost"]


def test_a_job_that_nobody_cancelled_counts_as_lost(farm: Audited) -> None:
    jobs.cancel(farm.db, farm.accept())
    assert [v.split(":")[0] for v in farm.violations()] == ["lost"]


def test_a_job_that_never_ends_is_stuck(farm: Audited) -> None:
    farm.accept()
    assert [v.split(":")[0] for v in farm.violations()] == ["stuck"]


def test_two_successes_are_seen(farm: Audited) -> None:
    job = farm.accept()
    farm.claim()
    leases.start(farm.db, job, 1)
    leases.fail(farm.db, job, 1, Outcome.USER_ERROR, JobError("oops", "it broke"))
    farm.sql(f"UPDATE attempts SET outcome = 'succeeded' WHERE job = '{job}'")
    assert [v.split(":")[0] for v in farm.violations()] == ["doubled"]


def test_a_key_that_made_two_jobs_is_seen(farm: Audited) -> None:
    farm.journal.accept({"id": farm.job, "frames": 17, "width": 96, "height": 96}, "k")
    farm.journal.accept({"id": "job_other", "frames": 17, "width": 96, "height": 96}, "k")
    assert "doubled" in {v.split(":")[0] for v in farm.violations()}


def test_a_video_that_is_cut_short_is_seen(farm: Audited) -> None:
    artifact = jobs.get(farm.db, farm.job).artifact
    assert artifact is not None
    whole = b"".join(farm.store.open(artifact.key))
    farm.store.put_bytes(artifact.key, whole[:-100])
    assert [v.split(":")[0] for v in farm.violations()] == ["broken_videos"]


def test_a_video_that_is_gone_is_seen(farm: Audited) -> None:
    artifact = jobs.get(farm.db, farm.job).artifact
    assert artifact is not None
    farm.store.delete([artifact.key])
    assert [v.split(":")[0] for v in farm.violations()] == ["broken_videos"]


def test_a_final_state_that_was_overwritten_is_seen_in_the_outbox(farm: Audited) -> None:
    job = farm.accept()
    jobs.cancel(farm.db, job)
    farm.journal.cancelled.add(job)
    assert farm.violations() == []
    jobs.retry(farm.db, job)
    jobs.cancel(farm.db, job)
    assert [v.split(":")[0] for v in farm.violations()] == ["overwritten"]
    farm.journal.retried.add(job)
    assert farm.violations() == []


def test_poison_needs_blame_and_something_that_happened(farm: Audited) -> None:
    job = farm.poison()
    assert jobs.get(farm.db, job).state is JobState.FAILED
    assert {v.split(":")[0] for v in farm.violations()} == {"poisoned_without_blame"}
    moment = farm.clock().timestamp()
    farm.journal.faults.append(FaultRecord(moment, "worker", Kind.KILL, (4711,)))
    assert farm.violations() == []
