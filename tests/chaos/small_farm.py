"""A farm in one thread: client, two workers, agent and dispatcher take turns, one call a turn, as a seed says.

They do what the real ones do with each answer and error. Whoever is killed is replaced by one that knows nothing.
"""

import contextlib
import hashlib
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from farm.db import events, jobs, lanes, leases, nodes, workers
from farm.domain.errors import DatabaseUnavailable, StateConflict, StorageUnavailable
from farm.domain.job import KEY_OF, Artifact, Assignment, Dependency, NewJob, Progress
from farm.domain.states import After, JobState, Order, StageName
from farm.domain.worker import Beat, NewWorker
from farm.scheduling.answering import Answering
from farm.scheduling.lanes import LaneView, next_lane
from farm.storage.folder import FolderStore
from tests.chaos.injector import FaultyStore, Killed
from tests.chaos.laws import check_state, check_step, must
from tests.chaos.snapshot import Snapshot, take
from tests.chaos.world import World, spec_of

TTL = 30.0
TURN = 1.0  # seconds of the injected clock
MOST_TURNS = 4000
PATIENCE = 60  # tries of a worker that has a finished video

Turns = Generator[None]
AWAY = (DatabaseUnavailable, StorageUnavailable)


@dataclass
class Journal:
    """What the client was told: it counts on no more, and on no less."""

    accepted: dict[str, str] = field(default_factory=dict)  # idempotency key -> job
    cancelled: set[str] = field(default_factory=set)


class SmallFarm:
    """`run` until nothing is left to do; every turn is held to the laws."""

    def __init__(self, world: World, store: FolderStore, scratch: Path, seed: int) -> None:
        self.db = world.db
        self.eyes = world.eyes
        self.clock = world.clock
        self.plain_store = store
        self.store = FaultyStore(store, world.injector)
        self.journal = Journal()
        self._scratch = scratch / "video.mp4"
        self._dice = random.Random(seed)
        self._born = 0
        self._dead: list[str] = []  # boot ids whose deaths the dispatcher will notice
        self._at_work: dict[str, str] = {}  # actor -> boot id
        self._makers: dict[str, Callable[[], Turns]] = {
            "client": self._client, "worker-1": lambda: self._worker("worker-1"),
            "worker-2": lambda: self._worker("worker-2"), "agent": self._agent, "dispatcher": self._dispatcher,
        }  # fmt: skip
        self._actors = {name: make() for name, make in self._makers.items()}
        self._answering = Answering(TTL, lambda: self.clock().timestamp())
        self.now = take(self.eyes, 0)

    def run(self) -> None:
        """Raises Violation."""
        last_event = 0
        for _ in range(MOST_TURNS):
            name = self._dice.choice(sorted(self._actors))
            try:
                next(self._actors[name])
            except Killed:
                self._replace(name)
            except StopIteration:
                del self._actors[name]
            self.clock.forward(TURN)
            before, self.now = self.now, take(self.eyes, last_event)
            last_event = self.now.news[-1].id if self.now.news else last_event
            check_step(before, self.now, claimed=1)
            if "client" not in self._actors and all(job.final for job in self.now.jobs.values()):
                return
        must(False, f"stuck after {MOST_TURNS} turns: {[job for job in self.now.jobs.values() if not job.final]}")

    def audit(self) -> None:
        """From the tables and the store alone. Raises Violation."""
        now = take(self.eyes, 0)
        made = {job.idempotency_key: job for job in now.jobs.values()}
        must(
            len(made) == len(now.jobs) == len(self.journal.accepted),
            f"jobs {made}, accepted {self.journal.accepted}",
        )
        there: dict[str, str] = {}
        for key, job_id in self.journal.accepted.items():
            job = made.get(key)
            must(job is not None and job.id == job_id, f"accepted as {job_id} and not there: {key}")
            assert job is not None
            ends = (
                {JobState.SUCCEEDED, JobState.CANCELLED}
                if job.id in self.journal.cancelled
                else {JobState.SUCCEEDED}
            )
            must(job.state in ends, f"{key} ended as {job.state}: {job.error}")
            if job.state is JobState.SUCCEEDED:
                there[job.artifact["key"]] = hashlib.sha256(
                    b"".join(self.plain_store.open(job.artifact["key"]))
                ).hexdigest()
        check_state(now, there)
        if made["in-vain"].state is JobState.SUCCEEDED:
            must(made["cancelled"].state is JobState.SUCCEEDED, "it did not wait for the success of another")
        must(
            made["anyway"].state is JobState.SUCCEEDED, "it waited for the success of another, and not for its end"
        )
        _check_outbox(now)
        told, reset = events.read(self.eyes, 0, limit=10_000)
        must(not reset and len(told) == len(now.news), "a reader of the outbox misses events")

    # -- the client --------------------------------------------------------------------------------

    def _client(self) -> Turns:
        """Each wish has a key, and is repeated until it is accepted."""
        start = self.clock() + timedelta(seconds=20)
        wishes = [
            [self._wish("one")],
            # In a batch one may wait for another by its key.
            [
                self._wish("two", interactive=False, batch="b"),
                self._wish("three", interactive=False, batch="b", depends_on=(Dependency(f"{KEY_OF}two"),)),
            ],
            [self._wish("later", not_before=start)],
            [self._wish("cancelled")],
        ]
        for together in wishes:
            while not self._submit(together):
                yield
            yield
        first = self.journal.accepted["cancelled"]
        while not self._submit([self._wish("in-vain", depends_on=(Dependency(first),))]):
            yield
        yield
        while not self._submit([self._wish("anyway", depends_on=(Dependency(first, After.ANY),))]):
            yield
        yield
        while not self._cancel(first):
            yield

    def _wish(self, key: str, **how: Any) -> NewJob:
        return NewJob(spec_of(key), idempotency_key=key, **how)

    def _submit(self, wishes: list[NewJob]) -> bool:
        try:
            made = jobs.submit(self.db, wishes)
        except AWAY:
            return False
        for wish, one in zip(wishes, made, strict=True):
            before = self.journal.accepted.setdefault(wish.idempotency_key or "", one.job.id)
            must(before == one.job.id, f"the key {wish.idempotency_key} made {before}, then {one.job.id}")
        return True

    def _cancel(self, job: str) -> bool:
        self.journal.cancelled |= {job, self.journal.accepted["in-vain"]}  # the one drags the other along
        try:
            jobs.cancel(self.db, job)
        except AWAY:
            return False
        except StateConflict:
            pass  # it was done before
        return True

    # -- workers -----------------------------------------------------------------------------------

    def _worker(self, name: str) -> Turns:
        self._born += 1
        boot = f"boot-{self._born}"
        while not self._tried(
            lambda: workers.register(self.db, NewWorker(boot, "n1", f"gpu-{name}", "Test GPU", 4711))
        ):
            yield
        self._at_work[name] = boot
        while True:
            yield
            with contextlib.suppress(*AWAY):
                assignment = self._claim(boot)
                if assignment is not None:
                    yield
                    yield from self._render(assignment)

    def _claim(self, boot: str) -> Assignment | None:
        me = next((w for w in workers.find(self.db) if w.id == boot), None)
        choice = None if me is None else next_lane(lanes.lanes(self.db, boot), me, self.clock())
        return leases.claim(self.db, boot, choice.id, TTL) if isinstance(choice, LaneView) else None

    def _render(self, assignment: Assignment) -> Turns:
        key = (assignment.job, assignment.epoch)
        if not leases.start(self.db, *key):
            return
        yield
        self._tried(lambda: leases.expand(self.db, *key, f"{assignment.spec.prompt}, at dusk"))
        renewed = self.clock()
        for k in (1, 2, 3):
            yield
            beat = Beat(assignment.worker, *key, Progress(StageName.DENOISE, k, 3), (), "busy", None, 0)
            sent = self.clock()
            orders = self._tried(lambda beat=beat: leases.renew(self.db, [beat], TTL))
            order = orders[key] if orders else Order.CONTINUE
            if order is Order.LOST:
                return
            if order is Order.CANCEL:
                yield from self._patiently(lambda: leases.cancelled(self.db, *key))
                return
            renewed = sent if orders else renewed
            if self.clock() - renewed > timedelta(seconds=0.9 * TTL):
                return  # its own fence: the reaper decides
        yield
        yield from self._publish(assignment)

    def _publish(self, assignment: Assignment) -> Turns:
        """A finished video is offered until somebody has an answer for it."""
        video = f"{assignment.job}/{assignment.epoch}".encode()
        digest = hashlib.sha256(video).hexdigest()
        self._scratch.write_bytes(video)
        prefix = assignment.prefix
        artifact = Artifact(f"{prefix}/video.mp4", digest, len(video), 17, 1.4, f"{prefix}/poster.jpg")

        def upload() -> None:
            self._scratch.write_bytes(video)
            self.store.put(artifact.key, self._scratch, digest)
            self.store.put_bytes(artifact.poster_key, b"poster")

        yield from self._patiently(upload)
        yield
        yield from self._patiently(
            lambda: leases.finish(self.db, assignment.job, assignment.epoch, artifact, {"denoise": 3.0})
        )

    def _patiently(self, act: Callable[[], object]) -> Turns:
        for _ in range(PATIENCE):
            try:
                act()
                return
            except AWAY:
                yield

    # -- the agent and the dispatcher ----------------------------------------------------------------------------

    def _agent(self) -> Turns:
        """Tells that it lives, and who works here."""
        self._born += 1
        boot = f"agent-{self._born}"
        while True:
            yield
            with contextlib.suppress(*AWAY):
                nodes.beat(self.db, "n1", boot)
                beats = [Beat(worker, None, 0, None, (), "busy", None, 0) for worker in self._at_work.values()]
                workers.beat(self.db, beats)

    def _dispatcher(self) -> Turns:
        while True:
            yield
            try:
                leases.due(self.db)
                yield
                self._bury()
                yield
                self._reap()
            except AWAY:
                self._answering.failed()

    def _bury(self) -> None:
        while self._dead:
            for job, epoch in leases.held(self.db, self._dead[0]):
                leases.lost(self.db, job, epoch, "its process died")
            workers.gone(self.db, self._dead[0])
            self._dead.pop(0)

    def _reap(self) -> None:
        """Once the database has answered for a whole TTL."""
        if self._answering.answered():
            leases.reap(self.db)

    # ----------------------------------------------------------------------------------------------

    def _replace(self, name: str) -> None:
        """Its supervisor starts another; of half of the deaths somebody learns before the lease runs out."""
        boot = self._at_work.pop(name, None)
        if boot is not None and self._dice.random() < 0.5:
            self._dead.append(boot)
        self._actors[name] = self._makers[name]()

    def _tried(self, act: Callable[[], Any]) -> Any:
        """None where the database is away; True for a call that has nothing to say."""
        try:
            said = act()
        except AWAY:
            return None
        return True if said is None else said


def _check_outbox(now: Snapshot) -> None:
    """From the first event to the last no final state is left but by a retry, which this farm does not know."""
    state: dict[str, str] = {}
    for event in now.news:
        if event.kind == "job" and "state" in event.data:
            was = state.get(event.subject)
            final = was in {"succeeded", "failed", "cancelled"}
            must(
                not final or was == event.data["state"],
                f"{event.subject} was {was} and became {event.data['state']}",
            )
            state[event.subject] = event.data["state"]
    must(state == {job.id: job.state for job in now.jobs.values()}, f"the outbox ends with {state}")
