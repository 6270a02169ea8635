"""Workers come, beat, are wished for, fall silent and go."""

from dataclasses import replace

import pytest

from farm.db import workers
from farm.domain.errors import WorkerNotFound
from farm.domain.states import Wish
from farm.domain.worker import Beat, Load
from tests.db.conftest import register


def beat(worker="w1", state="idle", models=(), done=0):
    return Beat(worker, None, 0, None, models, state, 2**30, done)


def states(db):
    return {w.id: w.state for w in workers.find(db)}


def test_a_worker_starts_and_says_how_it_is(db, clock):
    register(db)
    (new,) = workers.find(db)
    assert (new.state, new.wish, new.models, new.started_at) == ("starting", Wish.RUN, (), clock())
    clock.forward(3)
    workers.beat(db, [beat(models=("d1", "d2"), done=7)])
    (now,) = workers.find(db)
    assert (now.state, now.models, now.jobs_done, now.memory) == ("idle", ("d1", "d2"), 7, 2**30)
    assert (now.started_at, now.heartbeat_at) == (new.started_at, clock())


def test_what_it_says_of_its_load_is_kept_until_it_says_otherwise(db):
    register(db)
    load = Load(93, 2**36, 71, 640, (90, 93), (70, 71))
    workers.beat(db, [replace(beat(), load=load)])
    assert [w.load for w in workers.find(db)] == [load]
    workers.beat(db, [beat()])
    assert [w.load for w in workers.find(db)] == [None]


def test_registering_twice_changes_nothing(db):
    register(db)
    workers.beat(db, [beat()])
    register(db)
    assert states(db) == {"w1": "idle"}


def test_a_beat_of_an_unknown_worker_is_nothing(db):
    workers.beat(db, [beat("never")])
    assert workers.find(db) == []


def test_a_silent_worker_is_swept_and_back_when_it_beats(db, clock):
    register(db, "w1")
    register(db, "w2")
    clock.forward(20)
    workers.beat(db, [beat("w2")])
    clock.forward(11)
    assert workers.sweep(db) == ["w1"]
    assert workers.sweep(db) == []
    assert states(db) == {"w1": "gone", "w2": "idle"}
    workers.beat(db, [beat("w1", "busy")])
    assert states(db)["w1"] == "busy"


def test_a_dead_worker_is_not_revived_by_a_beat_that_was_on_its_way(db):
    register(db)
    workers.gone(db, "w1")
    workers.beat(db, [beat()])
    assert states(db) == {"w1": "gone"}


def test_the_gone_are_shown_for_an_hour(db, clock):
    register(db)
    workers.gone(db, "w1")
    clock.forward(3599)
    assert states(db) == {"w1": "gone"}
    assert workers.find(db, gone_within=0) == []
    clock.forward(2)
    assert workers.find(db) == []


def test_a_wish_is_kept_and_an_unknown_worker_refused(db):
    register(db)
    assert workers.wish(db, "w1", Wish.QUARANTINE).wish is Wish.QUARANTINE
    workers.beat(db, [beat()])
    assert workers.find(db)[0].wish is Wish.QUARANTINE
    with pytest.raises(WorkerNotFound):
        workers.wish(db, "nobody", Wish.RUN)
