"""The dispatcher's posts as nodes come and go, without Ray: whom it employs, buries and forgets."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from farm.cluster import post
from farm.cluster.dispatcher import Dispatcher
from farm.cluster.gpu_worker import WorkerStatus
from farm.cluster.slots import Slot
from farm.db import jobs, leases, nodes, quarantines, workers
from farm.db.engine import Database, migrate, open_database
from farm.db.leases import Stalled
from farm.domain.job import Assignment
from farm.domain.states import JobState, StageName, Wish
from farm.domain.worker import NewWorker
from farm.ops.logging import start_log
from farm.settings import load_settings
from tests.db.conftest import LANE, submit_one


@dataclass
class PaperActors:
    """Actors that answer what the test lets them say.

    `placed` are the slots whose actors came to life, `probing` those that are busy with a probe.
    """

    nodes: dict[str, list[str]]
    placed: set[str] = field(default_factory=set)
    probing: set[str] = field(default_factory=set)
    employed: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    watches: dict[str, "Future[WorkerStatus]"] = field(default_factory=dict)

    def slots(self) -> list[Slot]:
        return [Slot(slot) for slots in self.nodes.values() for slot in slots]

    def employ(self, slot: Slot, on_probation: bool = False) -> str:
        self.employed.append(f"{slot.resource} on probation" if on_probation else slot.resource)
        return slot.resource

    def watch(self, actor: str, seen: int, seconds: float, wake: Callable[[], None]) -> "Future[WorkerStatus]":
        future: Future[WorkerStatus] = Future()
        self.watches[actor] = future
        if actor in self.placed and seen < 0:
            future.set_result(WorkerStatus(1, f"worker-{actor}", 4711, actor not in self.probing, 0))
        return future

    def offer(self, actor: str, assignment: Assignment, wake: Callable[[], None]) -> "Future[int]":
        return Future()  # it is on its way

    def kill(self, actor: str) -> None:
        self.killed.append(actor)

    def leave(self, actor: str) -> None:
        """Says that its node goes down, and ends."""
        self.watches[actor].set_result(WorkerStatus(2, f"worker-{actor}", 4711, False, 0, leaving=True))

    def die(self, actor: str, why: str = "") -> None:
        error = ray.exceptions.ActorDiedError()
        error.error_msg = why or error.error_msg
        self.watches[actor].set_exception(error)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    migrate(f"sqlite:///{tmp_path}/farm.db")
    db = open_database(f"sqlite:///{tmp_path}/farm.db")
    yield db
    db.close()


@pytest.fixture(autouse=True)
def _every_look_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.cluster.dispatcher._SELDOM", 0.0)


def dispatcher_of(tmp_path: Path, db: Database, actors: Any) -> Dispatcher:
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    return Dispatcher(settings, db, actors, start_log("test", settings.log_dir))


def posts(dispatcher: Dispatcher) -> set[str]:
    return set(dispatcher._posts)  # pyright: ignore[reportPrivateUsage]


def test_a_lost_node_is_forgotten_once_its_dead_are_buried(tmp_path: Path, db: Database):
    actors = PaperActors({"a": ["gpu:A"], "b": ["gpu:B"]}, placed={"gpu:A", "gpu:B"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    workers.register(db, NewWorker("worker-gpu:B", "b", "B", "GPU", 4711))
    job = submit_one(db).id
    assert leases.claim(db, "worker-gpu:B", LANE) is not None
    for _ in range(2):
        dispatcher.look()
    del actors.nodes["b"]
    dispatcher.look()
    assert posts(dispatcher) == {"gpu:A", "gpu:B"}, "Ray has not told of the death yet"
    actors.die("gpu:B")
    dispatcher.look()
    assert posts(dispatcher) == {"gpu:A"}
    assert leases.held(db, "worker-gpu:B") == []
    assert jobs.get(db, job).state is JobState.QUEUED
    actors.nodes["b"] = ["gpu:B"]
    dispatcher.look()
    dispatcher.look()
    assert actors.employed == ["gpu:A", "gpu:B", "gpu:B"]


def test_a_worker_that_was_never_placed_goes_with_its_node(tmp_path: Path, db: Database):
    """Ray would keep it waiting for a node with that GPU, and tell nobody."""
    actors = PaperActors({"b": ["gpu:B"]})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    assert actors.employed == ["gpu:B"]
    actors.nodes.clear()
    dispatcher.look()
    assert actors.killed == ["gpu:B"]
    assert posts(dispatcher) == set()


def test_a_node_that_says_farewell_gets_no_new_worker(
    tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch
):
    """Unless it stays all the same: then only its agent was started anew."""
    clock = [1000.0]
    monkeypatch.setattr(post, "steady_clock", lambda: clock[0])
    actors = PaperActors({"b": ["gpu:B"]}, placed={"gpu:B"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    actors.leave("gpu:B")
    dispatcher.look()
    actors.die("gpu:B")
    dispatcher.look()
    clock[0] += 10.0
    dispatcher.look()
    assert actors.employed == ["gpu:B"]
    clock[0] += 30.0
    dispatcher.look()
    assert actors.employed == ["gpu:B", "gpu:B"]


def test_nobody_is_sent_to_a_node_that_has_gone(tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch):
    clock = [1000.0]
    monkeypatch.setattr(post, "steady_clock", lambda: clock[0])
    actors = PaperActors({"b": ["gpu:B"]}, placed={"gpu:B"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    actors.die("gpu:B")
    dispatcher.look()
    actors.nodes.clear()
    clock[0] += 60.0  # its successor would be due
    dispatcher.look()
    assert actors.employed == ["gpu:B"]
    assert posts(dispatcher) == set()


def test_a_worker_that_starts_slowly_is_not_taken_for_a_frozen_one(
    tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch
):
    """Killed before its first word, it would start anew for ever, each time as slowly."""
    clock = [1000.0]
    monkeypatch.setattr(post, "steady_clock", lambda: clock[0])
    actors = PaperActors({"a": ["gpu:A"], "b": ["gpu:B"]}, placed={"gpu:A"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    clock[0] += 90.0
    for kept in dispatcher._posts.values():  # pyright: ignore[reportPrivateUsage]
        kept.end_if_silent(8.0)
    assert actors.killed == ["gpu:A"]
    clock[0] += 60.0
    for kept in dispatcher._posts.values():  # pyright: ignore[reportPrivateUsage]
        kept.end_if_silent(8.0)
    assert "gpu:B" in actors.killed


def test_a_node_that_takes_its_workers_along_puts_no_blame_on_their_jobs(tmp_path: Path, db: Database):
    """Ray may tell of the workers' deaths before it says that their node is gone."""
    actors = PaperActors({"a": ["gpu:A", "gpu:B"]}, placed={"gpu:A", "gpu:B"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    ids: dict[str, str] = {}
    for gpu in "AB":
        workers.register(db, NewWorker(f"worker-gpu:{gpu}", "a", gpu, "GPU", 4711))
        ids[gpu] = submit_one(db).id
        assert leases.claim(db, f"worker-gpu:{gpu}", LANE) is not None
        leases.start(db, ids[gpu], 1)
    for _ in range(2):
        dispatcher.look()
    actors.die("gpu:A", "The actor died because its node has died. Node Id: 1")
    actors.die("gpu:B", "The actor died unexpectedly before finishing this task.")
    dispatcher.look()
    assert [jobs.get(db, ids[gpu]).failures for gpu in "AB"] == [0, 1]


def test_a_device_in_quarantine_is_manned_again_only_by_a_probe(
    tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch
):
    clock = [1000.0]
    monkeypatch.setattr(post, "steady_clock", lambda: clock[0])
    workers.register(db, NewWorker("worker-gpu:A", "a", "A", "GPU", 4711))
    actors = PaperActors({"a": ["gpu:A"]}, placed={"gpu:A"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    quarantines.put(db, "A", "it smells", "ann")
    dispatcher.look()
    assert actors.killed == ["gpu:A"], "it was idle"
    actors.die("gpu:A")
    for _ in range(3):
        clock[0] += 60.0
        dispatcher.look()
    assert actors.employed == ["gpu:A"], "nobody comes after it"
    quarantines.put(db, "A", "it smells", "ann", seconds=-1.0)  # its time is over
    actors.probing.add("gpu:A")
    dispatcher.look()
    assert actors.employed == ["gpu:A", "gpu:A on probation"]
    # The probe takes the process down: that is an answer, too.
    dispatcher.look()
    actors.die("gpu:A")
    dispatcher.look()
    (still,) = quarantines.find(db)
    assert (still.probes, still.last_probe) == (1, "the probe's process died")
    clock[0] += 60.0
    dispatcher.look()
    assert len(actors.employed) == 2


def test_a_worker_from_before_a_quarantine_fails_no_probe(tmp_path: Path, db: Database):
    """It outlived its dispatcher, and the next one found it there when the probe was due."""
    workers.register(db, NewWorker("worker-gpu:A", "a", "A", "GPU", 4711))
    quarantines.put(db, "A", "it smells", "ann", seconds=-1.0)
    actors = PaperActors({"a": ["gpu:A"]}, placed={"gpu:A"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    assert actors.killed == ["gpu:A"], "it is idle, so it has not been probed"
    actors.die("gpu:A")
    dispatcher.look()
    (still,) = quarantines.find(db)
    assert (still.times, still.probes) == (1, 0)


def test_a_worker_that_renders_is_not_ended_by_a_quarantine(tmp_path: Path, db: Database):
    workers.register(db, NewWorker("worker-gpu:A", "a", "A", "GPU", 4711))
    submit_one(db)
    actors = PaperActors({"a": ["gpu:A"]}, placed={"gpu:A"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    assert leases.held(db, "worker-gpu:A"), "it was given the job"
    quarantines.put(db, "A", "it smells", "ann")
    dispatcher.look()
    assert actors.killed == []


def test_a_worker_that_hangs_is_ended_and_its_job_says_why(
    tmp_path: Path, db: Database, monkeypatch: pytest.MonkeyPatch
):
    """Where its own watchdog cannot: Python may be stuck in a call that lets no other thread run."""
    workers.register(db, NewWorker("worker-gpu:A", "a", "A", "GPU", 4711))
    job = submit_one(db).id
    actors = PaperActors({"a": ["gpu:A"]}, placed={"gpu:A"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    for _ in range(2):
        dispatcher.look()
    leases.start(db, job, 1)
    hung = Stalled(
        job, 1, "worker-gpu:A", "a", "A", 4711, StageName.DECODE, 0, 0, datetime.now(UTC), 100.0, 60.0
    )  # fmt: skip
    monkeypatch.setattr("farm.cluster.dispatcher.leases.stalled", lambda *_: [hung])
    dispatcher.look()
    assert actors.killed == ["gpu:A"]
    actors.die("gpu:A")
    dispatcher.look()
    (attempt,) = jobs.attempts(db, job)
    assert attempt.cause == "no progress for 100 s in decode; 60 s are long enough"
    assert jobs.get(db, job).failures == 1


def test_a_node_that_is_to_restart_restarts_once(tmp_path: Path, db: Database):
    actors = PaperActors({"a": ["gpu:A"]}, placed={"gpu:A"})
    dispatcher = dispatcher_of(tmp_path, db, actors)
    workers.register(db, NewWorker("worker-gpu:A", "a", "A", "GPU", 4711))
    nodes.wish(db, "a", Wish.RESTART)
    for _ in range(3):
        dispatcher.look()
    assert actors.killed == ["gpu:A"]
    actors.die("gpu:A")
    dispatcher.look()
    workers.register(db, NewWorker("its successor", "a", "A", "GPU", 4712))
    dispatcher.look()
    (node,) = nodes.find(db)
    assert node.wish is Wish.RUN
