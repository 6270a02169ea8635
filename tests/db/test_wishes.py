"""What operators wish of workers and nodes: kept with who and why, obeyed by claims and renewals."""

import pytest

from farm.db import events, jobs, leases, nodes, workers
from farm.domain.errors import NodeNotFound
from farm.domain.states import JobState, Order, Wish
from farm.domain.worker import Beat, NewWorker
from tests.db.conftest import LANE, register, submit_one

STOPS = [Wish.DRAIN, Wish.RESTART, Wish.QUARANTINE]


def wish_of(db, worker="w1"):
    return next(w for w in workers.find(db) if w.id == worker)


def order(db, job_id):
    return leases.renew(db, [Beat("w1", job_id, 1, None, (), "busy", None, 0)])[job_id, 1]


@pytest.fixture
def in_hand(db):
    register(db)
    job = submit_one(db)
    submit_one(db)
    assert leases.claim(db, "w1", LANE)
    leases.start(db, job.id, 1)
    return job.id


def test_who_wished_what_and_why_is_kept(db, clock):
    register(db)
    clock.forward(5)
    workers.wish(db, "w1", Wish.DRAIN, by="ann", reason="new driver", now=True)
    kept = wish_of(db)
    assert (kept.wish, kept.wish_by, kept.wish_reason, kept.wish_now) == (Wish.DRAIN, "ann", "new driver", True)
    assert (kept.wish_at, kept.wish_of_node) == (clock(), False)
    told = [event for event in events.read(db, 0)[0] if event.kind == "worker"][-1]
    assert (told.data["wish"], told.data["wish_by"], told.data["wish_reason"]) == ("drain", "ann", "new driver")


@pytest.mark.parametrize("wanted", STOPS)
@pytest.mark.parametrize("of", ["worker", "node"])
def test_the_job_in_hand_is_finished_unless_it_is_wished_now(db, in_hand, of, wanted):
    def wish(now):
        workers.wish(db, "w1", wanted, now=now) if of == "worker" else nodes.wish(db, "n1", wanted, now=now)

    wish(now=False)
    assert order(db, in_hand) is Order.CONTINUE
    assert leases.claim(db, "w1", LANE) is None, "but nothing new"
    wish(now=True)
    assert order(db, in_hand) is Order.DRAIN
    jobs.cancel(db, in_hand)
    assert order(db, in_hand) is Order.CANCEL


def test_a_node_that_has_restarted_forgets_no_later_wish(db, in_hand):
    wished = nodes.wish(db, "n1", Wish.RESTART)
    nodes.wish(db, "n1", Wish.DRAIN, by="ann")  # while the dispatcher looks who has restarted
    assert not nodes.restarted(db, wished)
    assert wish_of(db).wish is Wish.DRAIN
    wished = nodes.wish(db, "n1", Wish.RESTART)
    assert nodes.restarted(db, wished)
    assert (wish_of(db).wish, nodes.find(db)[0].wish_by) == (Wish.RUN, "the dispatcher")


def test_to_run_again_takes_a_wish_back(db, in_hand):
    workers.wish(db, "w1", Wish.DRAIN, now=True)
    workers.wish(db, "w1", Wish.RUN, now=True)
    assert order(db, in_hand) is Order.CONTINUE
    assert leases.claim(db, "w1", LANE) is not None


def test_the_wish_for_a_node_holds_for_all_its_workers_and_those_to_come(db, in_hand):
    register(db, "w2")
    register(db, "far", node="n2")
    assert nodes.wish(db, "n1", Wish.DRAIN, by="ann", reason="maintenance").wish is Wish.DRAIN
    register(db, "later")
    for worker in ("w1", "w2", "later"):
        shown = wish_of(db, worker)
        assert (shown.wish, shown.wish_by, shown.wish_of_node) == (Wish.DRAIN, "ann", True)
        assert leases.claim(db, worker, LANE) is None
    assert wish_of(db, "far").wish is Wish.RUN
    assert leases.claim(db, "far", LANE) is not None
    nodes.wish(db, "n1", Wish.RUN, by="ann")
    submit_one(db)
    assert wish_of(db, "later").wish is Wish.RUN
    assert leases.claim(db, "later", LANE) is not None


def test_a_wish_for_the_worker_itself_outlasts_that_of_its_node(db):
    register(db)
    workers.wish(db, "w1", Wish.RESTART, by="bob")
    nodes.wish(db, "n1", Wish.DRAIN, by="ann")
    assert (wish_of(db).wish, wish_of(db).wish_by) == (Wish.RESTART, "bob")
    nodes.wish(db, "n1", Wish.RUN)
    assert wish_of(db).wish is Wish.RESTART


def test_a_node_is_known_by_its_agent_or_by_its_workers(db, clock):
    with pytest.raises(NodeNotFound):
        nodes.wish(db, "n1", Wish.DRAIN)
    nodes.beat(db, "n1", "boot1")
    clock.forward(3)
    nodes.beat(db, "n1", "boot2")
    (node,) = nodes.find(db)
    assert (node.node, node.agent_boot, node.heartbeat_at, node.wish) == ("n1", "boot2", clock(), Wish.RUN)
    nodes.wish(db, "n1", Wish.DRAIN, by="ann")
    nodes.beat(db, "n1", "boot2")
    assert nodes.find(db)[0].wish is Wish.DRAIN, "a beat forgets no wish"
    told = [event for event in events.read(db, 0)[0] if event.kind == "node"]
    assert [(event.subject, event.data["wish"]) for event in told] == [("n1", "drain")]


def test_a_worker_says_what_it_has(db):
    has = {"tags": ("a100",), "pool": "film", "memory_total": 80 * 2**30, "gpus": 1}
    workers.register(db, NewWorker("w1", "n1", "gpu-w1", "Test GPU", 1, **has))
    shown = wish_of(db)
    assert {name: getattr(shown, name) for name in has} == has


def test_a_drained_worker_finishes_its_prefetched_jobs_only_if_they_began(db, in_hand):
    assert leases.claim(db, "w1", LANE) is not None
    workers.wish(db, "w1", Wish.DRAIN)
    (_, second) = sorted(leases.held(db, "w1"), key=lambda claim: claim[0] != in_hand)
    assert leases.recall(db, *second)
    assert jobs.get(db, second[0]).state is JobState.QUEUED
    assert not leases.recall(db, in_hand, 1)
