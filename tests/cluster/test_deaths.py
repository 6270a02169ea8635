"""A death that nobody watched: the jobs of the dead go back at once, whatever people did to them meanwhile."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from farm.cluster.deaths import bury, bury_forgotten
from farm.db import jobs, leases, workers
from farm.db.engine import Database, migrate, open_database
from farm.domain.errors import JobNotFound
from farm.domain.job import Assignment
from farm.domain.states import JobState
from farm.domain.worker import NewWorker
from farm.ops.logging import start_log
from farm.settings import Settings, load_settings
from tests.db.conftest import LANE, submit_one

NOBODY = 2**22 + 1  # above the highest pid of any Linux


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    migrate(settings.database_url)
    return settings


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    """Whatever is written, was written a minute ago."""
    db = open_database(settings.database_url, lambda: datetime.now(UTC) - timedelta(minutes=1))
    workers.register(db, NewWorker("dead", socket.gethostname(), "cpu:here:0", "CPU", NOBODY))
    yield db
    db.close()


def claim(db: Database) -> Assignment:
    submit_one(db)
    claimed = leases.claim(db, "dead", LANE)
    assert claimed is not None
    return claimed


def test_its_jobs_go_back_whether_they_had_started_or_not(settings: Settings, db: Database):
    started, waiting = claim(db), claim(db)
    leases.start(db, started.job, 1)
    assert bury_forgotten(settings, db, start_log("test", settings.log_dir)) == 1
    found = [jobs.get(db, each.job) for each in (started, waiting)]
    # Nobody saw how it died, so nobody is blamed.
    assert [(job.state, job.failures) for job in found] == [(JobState.QUEUED, 0), (JobState.QUEUED, 0)]
    assert workers.find(db, gone_within=0.0) == []


@pytest.mark.parametrize(("alone", "failures"), [(True, 1), (False, 0)])
def test_only_a_worker_that_dies_alone_puts_blame_on_its_job(
    settings: Settings, db: Database, alone: bool, failures: int
):
    job = claim(db).job
    leases.start(db, job, 1)
    bury(settings, db, "dead", "its process died", alone, start_log("test", settings.log_dir))
    assert jobs.get(db, job).failures == failures


def test_a_job_that_people_have_deleted_meanwhile_stops_nobody(settings: Settings, db: Database):
    deleted, other = claim(db), claim(db)
    leases.start(db, deleted.job, 1)
    jobs.cancel(db, deleted.job)
    jobs.hide(db, deleted.job)
    assert bury_forgotten(settings, db, start_log("test", settings.log_dir)) == 1
    with pytest.raises(JobNotFound):
        jobs.get(db, deleted.job)
    assert leases.held(db, "dead") == []
    assert jobs.get(db, other.job).state is JobState.QUEUED


def test_a_process_that_lives_or_was_heard_of_is_left_alone(settings: Settings, db: Database):
    beaten = open_database(settings.database_url)  # its clock is the wall's
    workers.register(beaten, NewWorker("young", socket.gethostname(), "cpu:here:1", "CPU", NOBODY))
    workers.register(db, NewWorker("elsewhere", "another-node", "cpu:there:0", "CPU", NOBODY))
    bury_forgotten(settings, db, start_log("test", settings.log_dir))
    assert {worker.id for worker in workers.find(db, gone_within=0.0)} == {"young", "elsewhere"}
    beaten.close()
