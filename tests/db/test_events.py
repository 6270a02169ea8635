"""The outbox: complete, in order, and honest about what it has forgotten."""

import pytest

from farm.db import events, jobs, leases, workers
from farm.domain.states import Wish
from farm.domain.worker import Beat
from tests.db.conftest import LANE, register, submit_one, video


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
    submit_one(db)
    submit_one(db)
    clock.forward(8 * 86400)
    submit_one(db)
    assert events.prune(db) == 2
    assert events.read(db, 0) == ([], True)
    assert events.read(db, 1) == ([], True)
    kept, reset = events.read(db, 2)
    assert ([e.id for e in kept], reset) == ([3], False)


def test_the_newest_event_is_always_kept_and_ids_never_come_back(db, clock):
    submit_one(db)
    submit_one(db)
    clock.forward(80 * 86400)
    assert events.prune(db) == 1
    assert events.latest(db) == 2
    submit_one(db)
    assert events.latest(db) == 3


def test_a_cursor_from_another_database_is_reset(db):
    submit_one(db)
    assert events.read(db, 99) == ([], True)


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
