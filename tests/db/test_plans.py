"""The hot queries live on indexes: the statements the code really sends, explained by the database."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, update

from farm.db import events, jobs, lanes, leases, nodes, progress
from farm.db.tables import metadata
from farm.domain.job import Dependency, JobError
from farm.domain.states import JobState, Outcome
from farm.domain.worker import Beat
from tests.db.conftest import LANE, new_job, register

COLUMNS = {column.name for table in metadata.tables.values() for column in table.columns}


@dataclass
class Plan:
    """What both databases say in their own words. `searched`: (table, index, columns it is searched by)."""

    searched: set[tuple[str, str, frozenset[str]]] = field(default_factory=set)
    ordered: set[tuple[str, str]] = field(default_factory=set)  # (table, index) read from end to end, in its order
    scanned: set[str] = field(default_factory=set)  # tables read whole
    sorts: int = 0

    def by(self, table: str, index: str, *columns: str) -> bool:
        """`columns`: at least these; the key of a table is the index "key"."""
        return any((t, i) == (table, index) and c >= set(columns) for t, i, c in self.searched)

    @property
    def tables(self) -> set[str]:
        return {table for table, *_ in self.searched}


@pytest.fixture
def busy(db, clock):
    """Rows of every kind; no statistics, because the farm gathers none either."""
    register(db)
    nodes.beat(db, "n1", "boot")
    jobs.submit(db, [new_job(f"p{i}", owner=f"o{i % 3}", batch=f"b{i % 5}") for i in range(60)])
    for owner in ("o0", "o1"):
        for _ in range(4):
            given = leases.claim(db, "w1", LANE.replace("local", owner), capacity=99)
            leases.start(db, given.job, given.epoch)
    clock.forward(31)
    return db


@contextmanager
def plans(db) -> Iterator[Plan]:
    """The plan of every statement sent inside the block."""
    sent, told = [], Plan()

    def note(conn, cursor, statement, parameters, context, many):
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            sent.append((statement, parameters[0] if many else parameters))

    event.listen(db._engine, "before_cursor_execute", note)
    yield told
    event.remove(db._engine, "before_cursor_execute", note)
    explain = _explain_sqlite if db.dialect == "sqlite" else _explain_postgres
    with db.read() as conn:
        for statement, parameters in sent:
            if "set_config" not in statement:  # the clock of these tests
                explain(conn, statement, parameters, told)


def _explain_sqlite(conn, statement: str, parameters: Any, told: Plan) -> None:
    for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
        line = row[3]
        told.sorts += line.startswith("USE TEMP B-TREE FOR ORDER BY")
        if found := re.match(
            r"SEARCH (\w+) USING (?:COVERING )?(?:INDEX (\w+)|INTEGER PRIMARY KEY) \((.*)\)", line
        ):
            table, index, condition = found.groups()
            columns = re.findall(r"\w+", condition.replace("rowid", "id" if table == "events" else "seq"))
            told.searched.add((table, _known(index, table), frozenset(columns)))
        elif found := re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?$", line):
            table, index = found.groups()
            if table in metadata.tables:
                told.ordered.add((table, index)) if index else told.scanned.add(table)


def _known(index: str | None, table: str) -> str:
    return "key" if index is None or index.startswith("sqlite_autoindex") or index == f"{table}_key" else index


def _explain_postgres(conn, statement: str, parameters: Any, told: Plan) -> None:
    # So few rows would be read whole, whatever the indexes; what counts is what the planner could do.
    conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
    conn.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    (plan,) = conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    _read(plan["Plan"], told)


def _read(node: dict[str, Any], told: Plan) -> None:
    kind, table = node["Node Type"], node.get("Relation Name", "")
    told.sorts += "Sort" in kind and table == ""
    if kind == "Seq Scan":
        told.scanned.add(table)
    elif kind in {"Index Scan", "Index Only Scan"}:
        index = node["Index Name"]
        index = "key" if index in {f"{table}_key", "jobs_id_once"} else index
        if condition := node.get("Index Cond"):
            told.searched.add((table, index, frozenset(COLUMNS & set(re.findall(r"\w+", condition)))))
        else:
            told.ordered.add((table, index))
    for child in node.get("Plans", []):
        _read(child, told)


def test_claim(busy):
    with plans(busy) as told:
        assert leases.claim(busy, "w1", LANE.replace("local", "o2"), models=["d1"], capacity=99)
    assert told.by("jobs", "jobs_queue", "state", "lane"), told
    assert told.by("leases", "leases_worker", "worker"), told
    assert told.by("workers", "key", "id"), told
    assert not told.scanned & {"jobs", "leases"}, told


def test_what_a_worker_holds(busy):
    with plans(busy) as told:
        assert leases.held(busy, "w1")
    assert told.by("leases", "leases_worker", "worker"), told
    assert not told.scanned, told


def test_due(busy):
    first = jobs.find(busy, limit=1, order="asc")[0][0]
    waits = [new_job(f"w{n}", owner="o0", depends_on=(Dependency(first.id),)) for n in range(20)]
    jobs.submit(busy, waits)
    jobs.cancel(busy, first.id)
    leases.lost(busy, first.id, 1, "died")
    with plans(busy) as told:
        leases.due(busy)
    assert jobs.counts(busy)[JobState.CANCELLED] == 21
    assert told.by("dependencies", "key", "job"), told
    assert told.by("jobs", "key", "id"), told
    assert any(table == "jobs" and "state" in columns for table, _, columns in told.searched), told
    assert not told.scanned & {"jobs", "dependencies"}, told


def test_a_fault_looks_at_the_faults_of_its_gpu(busy):
    (job, epoch), *_ = leases.held(busy, "w1")
    with plans(busy) as told:
        assert leases.fail(busy, job, epoch, Outcome.DEVICE_FAULT, JobError("nan", "black frames"))
    assert told.by("attempts", "attempts_faults", "gpu"), told
    assert told.by("attempts", "key", "job"), told
    assert not told.scanned & {"jobs", "leases", "attempts"}, told


def test_stalls_are_looked_for_among_the_running_and_the_newest_videos(busy, clock):
    clock.forward(10**5)
    with busy.write() as conn:  # their workers live and say so
        conn.execute(update(metadata.tables["leases"]).values(expires_at=clock.time + timedelta(seconds=30)))
    with plans(busy) as told:
        assert leases.stalled(busy)
    assert told.by("leases", "key", "job"), told
    assert told.by("attempts", "key", "job", "epoch"), told
    assert any(table == "jobs" and "state" in columns for table, _, columns in told.searched), told
    assert not told.scanned & {"jobs", "leases", "attempts"}, told


def test_reap(busy):
    with plans(busy) as told:
        assert leases.reap(busy)
    assert told.by("leases", "leases_expiry", "expires_at"), told
    assert not told.scanned & {"jobs", "leases", "attempts", "lanes"}, told


def test_renew(busy):
    given = leases.claim(busy, "w1", LANE.replace("local", "o2"), capacity=99)
    with plans(busy) as told:
        leases.renew(busy, [Beat("w1", given.job, given.epoch, None, (), "busy", None, 0)])
    assert told.tables == {"leases", "jobs", "workers", "nodes"}
    assert not told.scanned, told
    assert not told.ordered, told


def test_events(busy):
    with plans(busy) as told:
        assert events.read(busy, 5)[0]
        events.latest(busy)
    assert told.by("events", "key", "id"), told
    assert (told.scanned, told.sorts) == (set(), 0), told


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, None),
        ({"states": [JobState.QUEUED]}, ("jobs_state", "state")),
        ({"batch": "b1"}, ("jobs_batch", "batch")),
    ],
)
def test_list(busy, filters, index):
    with plans(busy) as told:
        page, _ = jobs.find(busy, limit=5, **filters)
        assert page
    # Read in the order of a key, from the newest: no page is sorted.
    assert told.sorts == 0, told
    assert index is None or told.by("jobs", *index), told
    assert "leases" not in told.scanned, told


def test_the_next_page(busy):
    _, cursor = jobs.find(busy, limit=5)
    with plans(busy) as told:
        assert jobs.find(busy, limit=5, after=cursor)[0]
    assert told.by("jobs", "key", "seq"), told
    assert told.sorts == 0


def test_one_job_and_its_prefix(busy):
    (job,) = jobs.find(busy, limit=1)[0]
    with plans(busy) as told:
        jobs.get(busy, job.id[:10])
        jobs.position(busy, job.id)
        jobs.attempts(busy, job.id)
    assert told.by("jobs", "key", "id"), told
    assert told.by("jobs", "jobs_queue", "state", "lane"), told
    assert (told.scanned, told.ordered) == (set(), set()), told


def test_counts_lanes_and_progress(busy):
    with plans(busy) as told:
        jobs.counts(busy)
        lanes.lanes(busy)
        progress.progress(busy)
    assert told.by("jobs", "jobs_queue", "state", "lane"), told
    assert "jobs" not in told.scanned, told
