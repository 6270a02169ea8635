"""Weights by digest: noted once, advertised by workers, and a job goes only to who has exactly its own."""

from dataclasses import replace

from farm.db import events, jobs, lanes, leases, models, workers
from farm.domain.model import ModelOnDisk
from farm.domain.worker import Beat
from tests.db.conftest import LANE, register, submit_one

OLD = ModelOnDisk("demo-t2v", "d1", {"name": "demo-t2v"}, 1000)
NEW = replace(OLD, digest="d2", bytes=2000)
OTHER = ModelOnDisk("wan", "d3", {"name": "wan"}, 3)


def beat(db, worker="w1", held=()):
    workers.beat(db, [Beat(worker, None, 0, None, tuple(held), "idle", None, 0)])


def test_weights_are_noted_once_and_the_newest_come_first(db, clock):
    models.record(db, [OLD])
    first = clock()
    clock.forward(60)
    models.record(db, [OLD, NEW])
    models.record(db, [replace(OLD, bytes=7)])
    assert [(m.digest, m.bytes) for m in models.find(db)] == [("d2", 2000), ("d1", 1000)]
    assert models.find(db)[1].first_seen == first
    assert models.find(db)[0].preset == {"name": "demo-t2v"}


def test_only_living_workers_count_as_holders(db, clock):
    for worker in ("w1", "w2", "w3"):
        register(db, worker)
        models.advertise(db, worker, [OLD])
    workers.gone(db, "w3")
    assert [m.workers for m in models.find(db)] == [2]
    clock.forward(31)
    beat(db, "w1")
    assert [m.workers for m in models.find(db)] == [1]


def test_advertising_is_news_and_replaces_what_was_said(db):
    register(db)
    models.advertise(db, "w1", [OLD, OTHER])
    before = events.latest(db)
    models.advertise(db, "w1", [NEW])
    assert workers.find(db)[0].available == {"demo-t2v": "d2"}
    (told,), _ = events.read(db, before)
    assert (told.kind, told.data["available"]) == ("worker", {"demo-t2v": "d2"})


def test_advertising_by_an_unknown_worker_still_notes_the_weights(db):
    models.advertise(db, "nobody", [OLD])
    assert [m.workers for m in models.find(db)] == [0]


def test_a_claim_goes_only_to_a_worker_that_has_the_jobs_exact_weights(db):
    register(db, "old")
    register(db, "new")
    models.advertise(db, "old", [OLD])
    models.advertise(db, "new", [NEW])
    pinned_old, pinned_new = submit_one(db, digest="d1"), submit_one(db, digest="d2")
    given = leases.claim(db, "new", LANE)
    assert given is not None
    assert given.job == pinned_new.id, "the older job at the head is not for this worker"
    assert leases.claim(db, "new", LANE) is None
    given = leases.claim(db, "old", LANE)
    assert given is not None
    assert given.job == pinned_old.id


def test_weights_in_memory_count_although_their_files_were_replaced(db):
    register(db)
    models.advertise(db, "w1", [NEW])
    submit_one(db, digest="d1")
    assert leases.claim(db, "w1", LANE) is None
    assert leases.claim(db, "w1", LANE, models=["d1"]) is not None


def test_a_worker_that_holds_nothing_gets_nothing(db):
    register(db)
    models.advertise(db, "w1", [])
    submit_one(db)
    assert leases.claim(db, "w1", LANE) is None


def test_jobs_that_a_worker_cannot_render_do_not_keep_it_from_another_lane(db):
    register(db)
    models.advertise(db, "w1", [OTHER])
    submit_one(db, digest="d1")
    wanted = submit_one(db, model="wan", digest="d3")
    worker = workers.find(db)[0]
    assert {lane.model: lane.waiting for lane in lanes.lanes(db, worker.id)} == {"demo-t2v": 0, "wan": 1}
    assert {lane.model: lane.waiting for lane in lanes.lanes(db)} == {"demo-t2v": 1, "wan": 1}
    given = leases.claim(db, "w1", LANE.replace("demo-t2v", "wan"))
    assert given is not None
    assert given.job == wanted.id
    assert jobs.position(db, wanted.id) is None
