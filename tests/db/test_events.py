"""The outbox: complete, in order, and honest about what it has forgotten."""

from datetime import datetime

import pytest
from sqlalchemy import update

from farm.db import events, jobs, leases, outbox, workers
from farm.db.engine import migrate, open_database
from farm.db.tables import events as event_rows
from farm.domain.errors import InvalidRequest
from farm.domain.states import Wish
from farm.domain.worker import Beat
from tests.db.conftest import LANE, new_job, register, submit_one, video


def test_an_event_says_what_changed_in_plain_json(db, clock):
    register(db)
    job = submit_one(db, not_before=clock())
    leases.claim(db, "w1", LANE)
    leases.start(db, job.id, 1)
    clock.forward(5)
    leases.finish(db, job.id, 1, video(job.id, 1), {})
    data = events.read(db, 0)[0][-1].data
    assert data["state"] == "succeeded"
    assert data["epoch"] == 1
    assert data["worker"] == "w1"
    assert data["started_at"] == "2026-11-03T12:00:00Z"
    assert data["finished_at"] == "2026-11-03T12:00:05Z"
    assert data["artifact"]["key"] == f"videos/{job.id}/1/video.mp4"


def test_a_reader_resumes_where_it_was(db):
    ids = [submit_one(db).id for _ in range(5)]
    first, reset = events.read(db, 0, limit=2)
    assert not reset
    rest, reset = events.read(db, first[-1].id)
    assert not reset
    assert [e.subject for e in first + rest] == ids
    assert events.read(db, events.latest(db)) == ([], False)


def test_an_empty_outbox_has_a_cursor(db):
    assert events.latest(db) == 0
    assert events.read(db, 0) == ([], False)


def test_a_cursor_older_than_what_is_kept_is_reset(db, clock):
    for _ in range(2):
        submit_one(db)
    clock.forward(8 * 86400)
    submit_one(db)
    first, second, third = (e.id for e in events.read(db, 0)[0])
    assert events.prune(db) == 2
    assert events.prune(db) == 0
    assert events.read(db, 0) == ([], True)
    assert events.read(db, first) == ([], True)
    kept, reset = events.read(db, second)
    assert ([e.id for e in kept], reset) == ([third], False)
    clock.forward(8 * 86400)
    submit_one(db)
    assert events.prune(db) == 1
    assert events.read(db, second) == ([], True)


def test_numbers_that_were_never_used_are_no_loss(db):
    """A change that was taken back leaves a gap; nobody has missed anything."""
    with pytest.raises(InvalidRequest):
        jobs.submit(db, [new_job(), new_job(not_before=datetime(2026, 1, 1))])
    submit_one(db)
    told, reset = events.read(db, 0)
    assert (len(told), reset) == (1, False)


def test_the_newest_event_is_always_kept_and_ids_never_come_back(db, clock):
    submit_one(db)
    submit_one(db)
    newest = events.latest(db)
    clock.forward(80 * 86400)
    assert events.prune(db) == 1
    assert events.latest(db) == newest
    submit_one(db)
    assert events.latest(db) > newest
    assert events.read(db, newest)[0][0].id == events.latest(db)


def test_a_cursor_from_another_database_is_reset(db):
    submit_one(db)
    assert events.read(db, events.latest(db) + 99) == ([], True)


def test_what_is_committed_late_is_not_missed(db, url, clock):
    """The one whose event was written first commits last: a reader in between must not run ahead of it."""
    if db.dialect == "sqlite":
        pytest.skip("its writers take turns: the second would wait for the first")
    slow = open_database(url, clock)
    with slow.write() as conn:
        outbox.append(conn, [("batch", "late", {})])
        early = submit_one(db)
        assert events.latest(db) == 0
        assert events.read(db, 0) == ([], False)
    told = [event.subject for event in events.read(db, 0)[0]]
    assert told == ["late", early.id]
    assert events.read(db, events.latest(db)) == ([], False)
    slow.close()


def test_events_of_another_server_are_forgotten_when_a_dump_is_restored(db, url):
    """The dump carries the events, but not the count of transactions with which their numbers begin."""
    if db.dialect == "sqlite":
        pytest.skip("its numbers are in its own file")
    submit_one(db)
    old = events.latest(db) + (10**6 << 20)
    with db.write() as conn:
        conn.execute(update(event_rows).values(id=old))
    migrate(url)
    new = submit_one(db)
    assert events.read(db, old) == ([], True)
    assert [event.subject for event in events.read(db, 0)[0]] == [new.id]


def test_an_event_and_its_transition_are_one(db, monkeypatch):
    """If the event cannot be written, the transition has not happened."""
    job = submit_one(db)
    told = events.latest(db)

    def crash(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("farm.db.transitions.outbox.append", crash)
    with pytest.raises(KeyboardInterrupt):
        jobs.cancel(db, job.id)
    assert jobs.get(db, job.id) == job
    assert events.latest(db) == told


def test_workers_make_events_only_of_what_people_see(db, clock):
    register(db)
    beat = Beat("w1", None, 0, None, ("d1",), "idle", 10**9, 0)
    workers.beat(db, [beat])
    told = events.latest(db)
    for memory in range(5):
        clock.forward(1)
        workers.beat(db, [Beat("w1", None, 0, None, ("d1",), "idle", memory, 0)])
    assert events.latest(db) == told
    workers.wish(db, "w1", Wish.DRAIN)
    workers.gone(db, "w1")
    news, _ = events.read(db, 0)
    seen = [(e.kind, e.subject, e.data["state"], e.data["wish"]) for e in news]
    assert seen == [
        ("worker", "w1", "starting", "run"),
        ("worker", "w1", "idle", "run"),
        ("worker", "w1", "idle", "drain"),
        ("worker", "w1", "gone", "drain"),
    ]
