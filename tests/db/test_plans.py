"""The hot queries live on indexes: the statements the code really sends, explained by the database."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from farm.db import events, jobs, lanes, leases, progress
from farm.domain.states import JobState
from farm.domain.worker import Beat
from tests.db.conftest import LANE, new_job, register


@pytest.fixture
def busy(db, clock):
    """Rows of every kind; no statistics, because the farm gathers none either."""
    register(db)
    jobs.submit(db, [new_job(f"p{i}", owner=f"o{i % 3}", batch=f"b{i % 5}") for i in range(60)])
    for owner in ("o0", "o1"):
        for _ in range(4):
            given = leases.claim(db, "w1", LANE.replace("local", owner))
            leases.start(db, given.job, given.epoch)
    clock.forward(31)
    return db


@contextmanager
def plans(db) -> Iterator[list[str]]:
    """The plan of every statement sent inside the block."""
    sent, told = [], []

    def note(conn, cursor, statement, parameters, context, many):
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            sent.append((statement, parameters[0] if many else parameters))

    event.listen(db._engine, "before_cursor_execute", note)
    yield told
    event.remove(db._engine, "before_cursor_execute", note)
    with db.read() as conn:
        for statement, parameters in sent:
            for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                told.append(row[3])


def scans(told, table):
    return [line for line in told if line.startswith(f"SCAN {table}") and "INDEX" not in line]


def test_claim(busy):
    with plans(busy) as told:
        assert leases.claim(busy, "w1", LANE.replace("local", "o2"), models=["d1"])
    assert any("SEARCH jobs USING" in line and "jobs_queue (state=? AND lane=?)" in line for line in told)
    assert not scans(told, "jobs")


def test_reap(busy):
    with plans(busy) as told:
        assert leases.reap(busy)
    assert any("leases_expiry (expires_at<?)" in line for line in told)
    for table in ("jobs", "leases", "attempts", "lanes"):
        assert not scans(told, table), told


def test_renew(busy):
    given = leases.claim(busy, "w1", LANE.replace("local", "o2"))
    with plans(busy) as told:
        leases.renew(busy, [Beat("w1", given.job, given.epoch, None, (), "busy", None, 0)])
    assert told
    assert all(line.startswith("SEARCH") for line in told), told


def test_events(busy):
    with plans(busy) as told:
        assert events.read(busy, 5)[0]
    assert "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)" in told
    assert all(line.startswith("SEARCH") for line in told), told


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, None),
        ({"states": [JobState.QUEUED]}, "jobs_state (state=?)"),
        ({"batch": "b1"}, "jobs_batch (batch=?)"),
    ],
)
def test_list(busy, filters, index):
    with plans(busy) as told:
        page, _ = jobs.find(busy, limit=5, **filters)
        assert page
    # Read in the order of a key, from the newest: no page is sorted.
    assert "USE TEMP B-TREE FOR ORDER BY" not in told, told
    assert index is None or any(index in line for line in told), told
    assert any("SEARCH leases USING INDEX" in line for line in told), told


def test_the_next_page(busy):
    _, cursor = jobs.find(busy, limit=5)
    with plans(busy) as told:
        assert jobs.find(busy, limit=5, after=cursor)[0]
    assert "SEARCH jobs USING INTEGER PRIMARY KEY (rowid<?)" in told
    assert "USE TEMP B-TREE FOR ORDER BY" not in told


def test_one_job_and_its_prefix(busy):
    (job,) = jobs.find(busy, limit=1)[0]
    with plans(busy) as told:
        jobs.get(busy, job.id[:10])
        jobs.position(busy, job.id)
        jobs.attempts(busy, job.id)
    assert all(line.startswith(("SEARCH", "MULTI-INDEX OR", "INDEX")) for line in told), told


def test_counts_lanes_and_progress(busy):
    with plans(busy) as told:
        jobs.counts(busy)
        lanes.lanes(busy)
        progress.progress(busy)
    assert any("jobs USING INDEX jobs_state" in line for line in told), told
    assert any("jobs_queue (state=? AND lane=?)" in line for line in told)
    assert not scans(told, "jobs"), told
