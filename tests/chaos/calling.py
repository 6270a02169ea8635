"""One history: what has happened so far, and the laws around every call. The rules are in the rooms beside."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from farm.db import lanes, leases, workers
from farm.domain.errors import DatabaseUnavailable
from farm.domain.job import Artifact, Assignment
from farm.domain.states import JobState
from farm.domain.worker import NewWorker
from farm.scheduling.lanes import LaneView, next_lane
from tests.chaos import expected
from tests.chaos.injector import Fault
from tests.chaos.laws import check_paid, check_state, check_step, check_woken, must
from tests.chaos.snapshot import JobRow, take, time_of
from tests.chaos.world import TTL, World, video_of

NOTHING = object()  # the caller has no answer: its connection broke
NODES = ("n1", "n2")


class History(RuleBasedStateMachine):
    """`world` is set by the run."""

    world: ClassVar[World]
    histories: ClassVar[int] = 0
    calls: ClassVar[int] = 0
    faults: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).histories += 1
        self.db, self.clock = self.world.db, self.world.clock
        self.world.empty()
        self.objects: dict[str, str] = {}  # the store: sha256 of what is complete, by key
        self.claims: list[Assignment] = []  # every claim that anyone has heard of, also those long void
        self.workers: list[str] = []  # boot ids of the processes that live
        self.trouble: tuple[Fault, int | None] | None = None  # for the next call: see Injector.arm
        self.broken = False
        self.born = 0
        self.last_event = 0
        self._look()
        for _ in range(2):
            self.new_worker()

    # -- calls, and the laws around them -----------------------------------------------------------

    def call(
        self, act: Callable[[], Any], touched: set[str] | None, retried: Iterable[str] = (), claims: int = 0
    ) -> Any:
        """The answer, or NOTHING where a fault left the caller without one. `touched` None: new jobs only."""
        type(self).calls += 1
        injector, trouble = self.world.injector, self.trouble
        self.trouble = None
        injector.fired.clear()
        if trouble is not None:
            injector.arm(*trouble)
        try:
            said = act()
        except DatabaseUnavailable:
            must(injector.fired, "the database was said to be away, and it was not")
            said = NOTHING
        finally:
            injector.disarm()
        self.broken = bool(injector.fired)
        type(self).faults += self.broken
        self.before = self.now
        self._look()
        changed = self.before.changed(self.now)
        if touched is None:
            touched = self.now.jobs.keys() - self.before.jobs.keys()
        must(changed <= touched, f"it changed {changed - touched} too")
        check_step(self.before, self.now, retried, claims)
        check_paid(self.before, self.now)
        check_woken(self.before, self.now)
        check_state(self.now, self.objects)
        return said

    def answer(self, said: Any, wanted: bool, done: bool, what: str) -> None:
        """`done`: whether this claim has already been ended, or begun, as it asks now.

        A caller whose connection broke is told what is true by now; any other, whether this very call did it.
        """
        if said is NOTHING:  # whoever cannot say what came of it has looked, and nothing had
            must(self.before.same(self.now), f"{what}: it happened, and the caller does not know")
            return
        must(said is (wanted or (self.broken and done)), f"{what}: the answer was {said}")
        if not wanted:
            must(self.before.same(self.now), f"{what}: void, and yet it changed something")

    def claim_of(self, worker: str, lane: str) -> Assignment | None:
        head = expected.head(self.now, self.clock(), worker, lane)
        moment = self.clock()
        made = self.call(lambda: leases.claim(self.db, worker, lane, TTL), {head} if head else set(), claims=1)
        if made is NOTHING:
            return None
        got = None if made is None else made.job
        must(got == head, f"{worker} got {got} from {lane}, whose head is {head}")
        if made is not None:
            must(made.epoch == self.before.jobs[made.job].epoch + 1, f"the claim {made} has an old epoch")
            lease = self.now.leases[made.job]
            must((time_of(lease.expires_at) - moment).total_seconds() == TTL, f"leased until {lease.expires_at}")
            self.claims.append(made)
        return made

    def upload_of(self, assignment: Assignment) -> Artifact:
        artifact = video_of(assignment)
        self.objects[artifact.key] = artifact.sha256
        check_state(self.now, self.objects)
        return artifact

    def finish_of(self, assignment: Assignment) -> None:
        key = (assignment.job, assignment.epoch)
        job = self.now.jobs[key[0]]
        artifact = self.upload_of(assignment)
        said = self.call(lambda: leases.finish(self.db, *key, artifact, {}), {key[0]})
        mine = job.epoch == key[1]
        possible = mine and (job.active or (job.state is JobState.QUEUED and job.pardoned < key[1]))
        if said is True and mine and job.state is JobState.SUCCEEDED:
            must(self.before.same(self.now), f"{key} was finished twice")
            return
        self.answer(said, possible, mine and job.state is JobState.SUCCEEDED, f"finish of {key}, which was {job}")

    # -- what there is -----------------------------------------------------------------------------

    def job_at(self, which: int) -> JobRow:
        """Counted from the youngest."""
        ordered = sorted(self.now.jobs.values(), key=lambda job: -job.seq)
        return ordered[which % len(ordered)]

    def worker_at(self, which: int) -> str:
        return self.workers[which % len(self.workers)]

    def assignment_at(self, back: int) -> Assignment:
        """Mostly one that is in force, if there is any; else any that ever was."""
        live = [a for a in self.claims if (lease := self.now.leases.get(a.job)) and lease.epoch == a.epoch]
        some = live if live and back < 4 else self.claims
        return some[-1 - back % len(some)]

    def claimed_at(self, back: int) -> tuple[tuple[str, int], JobRow]:
        assignment = self.assignment_at(back)
        return (assignment.job, assignment.epoch), self.now.jobs[assignment.job]

    def outcome_of(self, key: tuple[str, int]) -> str | None:
        """Before the call."""
        return self.before.attempts[key].outcome

    def waiting_in(self, lane: str) -> int:
        return sum(job.lane == lane and job.state is JobState.QUEUED for job in self.now.jobs.values())

    def choose(self, worker: str) -> LaneView | None:
        """The lane that is next for this worker, by the farm's own pure choice over what the database says."""
        me = next(w for w in workers.find(self.db, gone_within=1e9) if w.id == worker)
        choice = next_lane(lanes.lanes(self.db, worker), me, self.clock())
        first = expected.turn(self.now, self.clock(), worker)
        chosen = choice if isinstance(choice, LaneView) else None
        if first is not None:
            must(chosen is not None and chosen.id == first, f"{first} is next for {worker}, it chose {choice}")
        return chosen

    def new_worker(self) -> str:
        self.born += 1
        worker, node = f"w{self.born}", NODES[self.born % 2]
        workers.register(self.db, NewWorker(worker, node, f"gpu-{self.born % 3}", "Test GPU", 4711))
        self.workers.append(worker)
        self._look()
        return worker

    def _look(self) -> None:
        self.now = take(self.world.eyes, self.last_event)
        if self.now.news:
            self.last_event = self.now.news[-1].id
