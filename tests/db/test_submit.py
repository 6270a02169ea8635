"""Accepted means durable, once, and in order."""

import subprocess
import sys
from datetime import timedelta

import pytest

from farm.db import events, jobs, submission
from farm.db.engine import open_database
from farm.domain.errors import IdempotencyConflict, InvalidRequest
from farm.domain.states import JobState
from tests.db.conftest import new_job, submit_one


def test_a_known_key_finds_the_job_that_is_there(db):
    (first,) = jobs.submit(db, [new_job(idempotency_key="k")])
    told = events.latest(db)
    (again,) = jobs.submit(db, [new_job(idempotency_key="k")])
    assert (first.created, again.created) == (True, False)
    assert again.job == first.job
    assert events.latest(db) == told


def test_a_known_key_with_another_spec_is_refused_and_nothing_of_the_call_is_kept(db):
    first = submit_one(db, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match=first.id):
        jobs.submit(db, [new_job("new"), new_job("different", idempotency_key="k")])
    assert [j.id for j in jobs.find(db)[0]] == [first.id]


def test_keys_are_scoped_by_owner_and_batch(db):
    wishes = [
        new_job(idempotency_key="k"),
        new_job(idempotency_key="k", owner="ann"),
        new_job(idempotency_key="k", batch="night"),
        new_job(idempotency_key="k", batch="day"),
        new_job(idempotency_key="k", batch="day", owner="ann"),
    ]
    assert all(s.created for s in jobs.submit(db, wishes))
    assert not any(s.created for s in jobs.submit(db, wishes))


def test_a_key_twice_in_one_call_is_one_job(db):
    one, two = jobs.submit(db, [new_job(idempotency_key="k")] * 2)
    assert (one.created, two.created) == (True, False)
    assert one.job.id == two.job.id


def test_without_keys_the_same_wish_is_as_many_jobs_as_asked(db):
    assert len({s.job.id for s in jobs.submit(db, [new_job()] * 3)}) == 3


def test_a_long_batch_keeps_its_order_and_adds_nothing_the_second_time(db):
    wishes = [new_job(f"row {i}", batch="big", idempotency_key=f"k{i}") for i in range(1203)]
    first = jobs.submit(db, wishes)
    assert [s.job.spec.prompt for s in first] == [f"row {i}" for i in range(1203)]
    assert [j.spec.prompt for j in jobs.find(db, order="asc", limit=3)[0]] == ["row 0", "row 1", "row 2"]
    again = jobs.submit(db, wishes)
    assert [s.job.id for s in again] == [s.job.id for s in first]
    assert not any(s.created for s in again)
    assert jobs.counts(db)[JobState.QUEUED] == 1203


def test_states_of_new_jobs(db, clock):
    assert submit_one(db).state is JobState.QUEUED
    assert submit_one(db, hold=True).state is JobState.HELD
    assert submit_one(db, not_before=clock() + timedelta(seconds=1)).state is JobState.SCHEDULED
    assert submit_one(db, not_before=clock()).state is JobState.QUEUED
    with pytest.raises(InvalidRequest, match="time zone"):
        submit_one(db, not_before=clock().replace(tzinfo=None))


def test_a_key_taken_between_look_and_insert_is_found_at_the_second_look(db, url, clock, monkeypatch):
    """Where writers do not take turns, only the unique index is left: force that order of events."""
    looks, look = [], submission._known

    def blind_at_first(conn, new):
        looks.append(1)
        return {} if len(looks) == 1 else look(conn, new)

    winner = submit_one(db, idempotency_key="k")
    monkeypatch.setattr(submission, "_known", blind_at_first)
    (loser,) = jobs.submit(db, [new_job(idempotency_key="k")])
    assert (loser.created, loser.job.id, len(looks)) == (False, winner.id, 2)
    looks.clear()
    in_batch = submit_one(db, idempotency_key="k", batch="b")
    looks.clear()
    (loser,) = jobs.submit(db, [new_job(idempotency_key="k", batch="b")])
    assert (loser.created, loser.job.id, len(looks)) == (False, in_batch.id, 2)


RACER = """
import sys
from farm.db import jobs
from farm.db.engine import open_database
from tests.db.conftest import new_job
db = open_database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    (s,) = jobs.submit(db, [new_job(idempotency_key=f"k{i}")])
    print(s.job.id, s.created, flush=True)
"""


def test_two_processes_with_the_same_keys_make_each_job_once(url):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [[line.split() for line in racer.communicate(timeout=120)[0].splitlines()] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert [job_id for job_id, _ in said[0]] == [job_id for job_id, _ in said[1]]
    created = [{mine[1], theirs[1]} for mine, theirs in zip(*said, strict=True)]
    assert created == [{"True", "False"}] * 40
    db = open_database(url)
    assert jobs.counts(db)[JobState.QUEUED] == 40
    db.close()
