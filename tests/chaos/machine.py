"""A state machine over the job protocol: people, workers, the clock, the reaper and faults, in any order.

Each rule makes one call of farm/db, says what it must answer and which jobs it may touch; the laws see to the rest.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from farm.db import jobs, leases, lanes, workers
from farm.db.engine import Database, open_database
from farm.db.tables import metadata
from farm.domain.errors import DatabaseUnavailable, IdempotencyConflict, JobNotFound, StateConflict
from farm.domain.job import Artifact, Assignment, JobError, JobSpec, NewJob, Progress
from farm.domain.states import WAITING, JobState, Order, Outcome, StageName, Wish
from farm.domain.worker import Beat, NewWorker, Worker
from farm.scheduling.lanes import LaneView, next_lane
from tests.chaos.injector import ERRORS, Fault, Injector, Kind, inject
from tests.chaos.laws import FakeStore, check_paid, check_state, check_step, must
from tests.chaos.snapshot import JobRow, Snapshot, take
from tests.db.conftest import Clock

TTL = 30.0
JOB_SECONDS = 10.0
MOST_JOBS = 8
UNFINISHED = frozenset({JobState.QUEUED, JobState.LEASED, JobState.RUNNING})
OOPS = JobError("oops", "it broke")
OWNERS = ("ann", "bob")
NOTHING = object()  # the call may answer anything


@dataclass
class World:
    """One database for a whole run, emptied for each history. `eyes`: a second door to it, which never breaks."""

    db: Database
    eyes: Database
    clock: Clock
    injector: Injector

    @classmethod
    def on(cls, url: str) -> "World":
        clock = Clock()
        world = cls(open_database(url, clock), open_database(url, clock), clock, Injector(clock.forward))
        inject(world.db, world.injector)
        return world

    def close(self) -> None:
        self.db.close()
        self.eyes.close()

    def empty(self) -> None:
        self.injector.disarm()
        with self.eyes.write() as conn:
            for table in reversed(metadata.sorted_tables):
                conn.execute(table.delete())


def spec_of(prompt: str) -> JobSpec:
    return JobSpec("t2v", "demo-t2v", "d1", prompt, 96, 96, 17, 12, 16, 7, 3.0)


def video_of(assignment: Assignment) -> Artifact:
    sha256 = f"{assignment.job}/{assignment.epoch}"  # bytes that no other claim would have made
    prefix = assignment.prefix
    return Artifact(f"{prefix}/video.mp4", sha256, 1, 17, 17 / 12, f"{prefix}/poster.jpg")


class Protocol(RuleBasedStateMachine):
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
        self.store = FakeStore()
        self.claims: list[Assignment] = []  # every claim that anyone has heard of, also those long void
        self.expires: dict[tuple[str, int], datetime] = {}  # the model of every lease
        self.keys: dict[tuple[str, str | None, str], str] = {}
        self.workers: list[str] = []
        self.wishes: dict[str, Wish] = {}
        self.gone: set[str] = set()
        self.closed: set[str] = set()
        self.not_before: dict[str, datetime] = {}
        self.held_from: dict[str, JobState] = {}
        self.trouble: Fault | None = None
        self.born = 0
        self.last_event = 0
        self.now = take(self.world.eyes, 0)
        for _ in range(2):
            self._new_worker()

    # -- people ------------------------------------------------------------------------------------

    @initialize(owners=st.lists(st.sampled_from(OWNERS), min_size=1, max_size=3), claims=st.integers(0, 2))
    def begin(self, owners: list[str], claims: int) -> None:
        """A farm at work: the interesting things happen to claims."""
        for owner in owners:
            self.submit_some(owner, True, 1, None, None, None, False, False, 0)
        for which in range(claims):
            self.take_up(which)

    @precondition(lambda self: len(self.now.jobs) < MOST_JOBS)
    @rule(
        owner=st.sampled_from(OWNERS), interactive=st.booleans(), count=st.integers(1, 3),
        key=st.sampled_from([None, None, "k1", "k2"]), batch=st.sampled_from([None, None, "b"]),
        later=st.sampled_from([None, None, None, 20.0]), hold=st.sampled_from([False, False, False, True]),
        other_spec=st.booleans(), priority=st.sampled_from([0, 0, 5]),
    )  # fmt: skip
    def submit(self, **how: Any) -> None:
        self.submit_some(**how)

    def submit_some(
        self, owner: str, interactive: bool, count: int, key: str | None, batch: str | None, later: float | None,
        hold: bool, other_spec: bool, priority: int,
    ) -> None:  # fmt: skip
        start = None if later is None else self.clock() + timedelta(seconds=later)
        prompt = "another" if other_spec and key is not None else "a red kite"
        wishes = [
            NewJob(
                spec_of(prompt), owner=owner, batch=batch, interactive=interactive, hold=hold, priority=priority,
                not_before=start, idempotency_key=None if key is None else f"{key}-{n}",
            )
            for n in range(count)
        ]  # fmt: skip
        idle = self._idle_lanes()

        def call() -> Any:
            try:
                return jobs.submit(self.db, wishes)
            except IdempotencyConflict:
                return None

        made = self._call(call, touched=None)
        created = self.now.jobs.keys() - self.before.jobs.keys()
        if made is NOTHING:
            must(len(created) in (0, count) or key is not None, f"half of a submission was accepted: {created}")
            for job in created:
                self._remember(job, start)
            return
        known = [self.keys.get((owner, batch, w.idempotency_key or "")) for w in wishes]
        known = [job if job and not self.before.jobs[job].hidden_at else None for job in known]
        conflict = any(job and self.before.jobs[job].spec != w.spec.canonical() for job, w in zip(known, wishes))
        must((made is None) == conflict, f"the keys {known} conflict: {conflict}, the answer was {made}")
        must(not conflict or not created, "a refused submission left something behind")
        for wish, job, said in zip(wishes, known, made or []):
            must(said.created == (job is None), f"{said.job.id} created: {said.created}, its key had {job}")
            must(job is None or said.job.id == job, f"the key of {job} made {said.job.id}")
            must(said.job.id in self.now.jobs, f"accepted and not there: {said.job.id}")
        for job in created:
            self._remember(job, start)
        self._check_woken(idle)

    @precondition(lambda self: self.now.jobs)
    @rule(
        which=st.integers(0, 7),
        ask=st.sampled_from([jobs.cancel, jobs.cancel, jobs.hold, jobs.release, jobs.retry, jobs.retry, jobs.hide]),
    )
    def person(self, which: int, ask: Callable[..., Any]) -> None:
        job = self._job(which)
        idle = self._idle_lanes()
        said = self._call(
            lambda: _asked(ask, self.db, job.id), {job.id}, retried={job.id} if ask is jobs.retry else ()
        )
        if said is not NOTHING:
            must(said is _may(ask, job), f"{ask.__name__} of a job that is {job}: {said}")
        after = self.now.jobs[job.id]
        if said is None or said is NOTHING:
            if after.state is JobState.QUEUED and job.state is not JobState.QUEUED:
                self._check_woken(idle)
        if ask is jobs.retry and after.state is not job.state:
            must((after.failures, after.cancelling) == (0, False), f"not a clean slate: {after}")
        if ask is jobs.cancel and said is None:
            done = after.cancelling if after.active else after.state is JobState.CANCELLED
            must(done, f"{job.id} was to be cancelled and is {after.state}")

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def cancel_claimed(self, back: int) -> None:
        """What people do most to a job that runs."""
        _, job = self._claimed(back)
        said = self._call(lambda: _asked(jobs.cancel, self.db, job.id), {job.id})
        must(said is NOTHING or said is _may(jobs.cancel, job), f"cancel of {job}: {said}")

    @precondition(lambda self: self.now.jobs)
    @rule(which=st.integers(0, 7), priority=st.sampled_from([-5, 0, 5, 9]))
    def set_priority(self, which: int, priority: int) -> None:
        job = self._job(which)
        said = self._call(lambda: _asked(jobs.set_priority, self.db, job.id, priority), {job.id})
        if said is not NOTHING:
            expected = JobNotFound if job.hidden_at else None if job.state in WAITING else StateConflict
            must(said is expected, f"set_priority of {job}: {said}")

    @precondition(lambda self: self.now.lanes)
    @rule(which=st.integers(0, 3), closed=st.booleans())
    def lane(self, which: int, closed: bool) -> None:
        name = sorted(self.now.lanes)[which % len(self.now.lanes)]
        said = self._call(
            lambda: lanes.close_lane(self.db, name, "night") if closed else lanes.open_lane(self.db, name), set()
        )
        if said is not NOTHING:
            (self.closed.add if closed else self.closed.discard)(name)
        else:
            with self.world.eyes.read() as conn:
                reason = conn.exec_driver_sql(f"SELECT closed_reason FROM lanes WHERE id = '{name}'").scalar_one()
            (self.closed.add if reason else self.closed.discard)(name)

    # -- operators ---------------------------------------------------------------------------------

    @rule(which=st.integers(0, 3), wish=st.sampled_from([Wish.RUN, Wish.RUN, Wish.DRAIN, Wish.RESTART]))
    def operator(self, which: int, wish: Wish) -> None:
        worker = self.workers[which % len(self.workers)]
        said = self._call(lambda: workers.wish(self.db, worker, wish), set())
        if said is not NOTHING:
            self.wishes[worker] = wish
        else:
            with self.world.eyes.read() as conn:
                self.wishes[worker] = Wish(
                    conn.exec_driver_sql(f"SELECT wish FROM workers WHERE id = '{worker}'").scalar_one()
                )

    # -- workers -----------------------------------------------------------------------------------

    @rule(which=st.integers(0, 3))
    def claim(self, which: int) -> None:
        """As the dispatcher does: a lane by the rules of fairness, then that lane's head."""
        worker = self.workers[which % len(self.workers)]
        lane = self._choose(worker)
        if lane is not None:
            self._claim(worker, lane.id)

    @rule(which=st.integers(0, 3))
    def take_up(self, which: int) -> None:
        """A claim that begins to render at once, as most do."""
        known = len(self.claims)
        self.claim(which)
        if len(self.claims) > known:
            self.start(0)

    @precondition(lambda self: self.now.lanes)
    @rule(which=st.integers(0, 3), lane=st.integers(0, 3))
    def claim_from(self, which: int, lane: int) -> None:
        """A dispatcher that has looked at the lanes some time ago, and chose what is not right any more."""
        names = sorted(self.now.lanes)
        self._claim(self.workers[which % len(self.workers)], names[lane % len(names)])

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def start(self, back: int) -> None:
        key, job = self._claimed(back)
        said = self._call(lambda: leases.start(self.db, *key), {key[0]})
        mine = job.is_claim(key[1])
        begun = mine and job.state is JobState.RUNNING
        self._answer(said, mine and job.state is JobState.LEASED, begun, f"start of {key}, which was {job}")
        if said is True:
            must(
                self.now.jobs[key[0]].state is JobState.RUNNING,
                f"{key} started and is {self.now.jobs[key[0]].state}",
            )

    @precondition(lambda self: self.claims)
    @rule(backs=st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True), k=st.integers(0, 16))
    def renew(self, backs: list[int], k: int) -> None:
        """Early or late, several in one call, some of them long void."""
        asked = {(a.job, a.epoch): a for a in (self._assignment(back) for back in backs)}
        beats = [_beat(a, Progress(StageName.DENOISE, k, 16)) for a in asked.values()]
        expected = {key: self._order(a) for key, a in asked.items()}
        moment = self.clock()
        orders = self._call(lambda: leases.renew(self.db, beats, TTL), {job for job, _ in asked})
        if orders is NOTHING:
            self._learn_leases(asked, moment)
            return
        must(orders == expected, f"the orders were {orders}, not {expected}")
        for key in (key for key, order in expected.items() if order is not Order.LOST):
            self.expires[key] = moment + timedelta(seconds=TTL)
        must(
            all(o is not Order.LOST for o in orders.values()) or not self._moved_by(asked, orders),
            "a lost claim was renewed",
        )

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def upload(self, back: int) -> None:
        self._upload(self._assignment(back))

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def finish(self, back: int) -> None:
        """Also by the dead: a worker that was stopped for an hour offers what it has."""
        assignment = self._assignment(back)
        self._finish(assignment)

    @precondition(lambda self: self.claims)
    @rule(
        back=st.integers(0, 7),
        outcome=st.sampled_from([Outcome.USER_ERROR, Outcome.OUT_OF_MEMORY, Outcome.DEVICE_FAULT, Outcome.LOST]),
    )
    def fail(self, back: int, outcome: Outcome) -> None:
        key, job = self._claimed(back)
        if outcome is Outcome.LOST:
            said = self._call(lambda: leases.lost(self.db, *key, "its process died"), {key[0]})
        else:
            said = self._call(lambda: leases.fail(self.db, *key, outcome, OOPS), {key[0]})
        if said is NOTHING:
            self._answer(said, False, False, f"{outcome} of {key}")
            return
        ours = job.is_claim(key[1]) and job.active
        told = self._outcome(key) == outcome and job.is_claim(key[1])
        self._answer(said is not None, ours, told, f"{outcome} of {key}, which was {job}")
        if not ours:
            return
        after = self.now.jobs[key[0]]
        must(said is after.state, f"{key} was said to be {said} and is {after.state}")
        must(
            after.failures in (job.failures, job.failures + 1),
            f"{key} was blamed {after.failures - job.failures} times",
        )
        if outcome is Outcome.USER_ERROR:
            must(after.state is JobState.FAILED, f"a user error is final, {key} is {after.state}")
        elif job.cancelling:
            must(after.state is JobState.CANCELLED, f"nobody wants {key} any more, and it is {after.state}")
        else:
            must(after.state in {JobState.QUEUED, JobState.FAILED}, f"{outcome} of {key}: {after.state}")
            must(after.state is JobState.QUEUED or after.failures > job.failures, f"{key} failed without blame")

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7), outcome=st.sampled_from([Outcome.DRAIN, Outcome.PREEMPT, Outcome.DEPENDENCY]))
    def give_back(self, back: int, outcome: Outcome) -> None:
        key, job = self._claimed(back)
        said = self._call(lambda: leases.give_back(self.db, *key, outcome, "why"), {key[0]})
        told = self._outcome(key) == outcome and job.is_claim(key[1])
        self._answer(said, job.is_claim(key[1]) and job.active, told, f"give_back of {key}, which was {job}")
        if said is True and job.active:
            after = self.now.jobs[key[0]]
            must(after.state is (JobState.CANCELLED if job.cancelling else JobState.QUEUED), f"{key}: {after}")
            must(after.failures == job.failures, f"{outcome} blamed {key}")

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def recall(self, back: int) -> None:
        key, job = self._claimed(back)
        said = self._call(lambda: leases.recall(self.db, *key), {key[0]})
        free = job.state is JobState.LEASED and not job.cancelling
        self._answer(
            said,
            job.is_claim(key[1]) and free,
            self._outcome(key) == Outcome.RECALL,
            f"recall of {key}, which was {job}",
        )
        if said is True:
            must(self.now.jobs[key[0]].failures == job.failures, f"a recall blamed {key}")

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def obey_cancel(self, back: int) -> None:
        key, job = self._claimed(back)
        said = self._call(lambda: leases.cancelled(self.db, *key), {key[0]})
        ours = job.is_claim(key[1]) and job.active and job.cancelling
        self._answer(said, ours, self._outcome(key) == Outcome.CANCELLED, f"cancelled {key}, which was {job}")

    @rule(which=st.integers(0, 3), noticed=st.booleans())
    def crash(self, which: int, noticed: bool) -> None:
        """A process dies between two calls. Somebody may notice; its boot id never comes back."""
        worker = self.workers[which % len(self.workers)]
        self.workers.remove(worker)
        if noticed:
            held = leases.held(self.db, worker)
            must(
                set(held) == {(x.job, x.epoch) for x in self.now.leases.values() if x.worker == worker},
                f"held: {held}",
            )
            for key in held:
                self._call(lambda key=key: leases.lost(self.db, *key, "it died"), {key[0]})
            self._call(lambda: workers.gone(self.db, worker), set())
        self._new_worker()

    # -- the farm ----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 5.0, 12.0, 31.0, 31.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @rule()
    def reap(self) -> None:
        self._reap()

    @rule()
    def leases_run_out(self) -> None:
        self.clock.forward(TTL + 1)
        self._reap()

    @rule()
    def due(self) -> None:
        self._due()

    @rule(kind=st.sampled_from(ERRORS), ahead=st.sampled_from([0, 1, 2, 3, 5, 8]))
    def fault(self, kind: Kind, ahead: int) -> None:
        """The next call meets a database that breaks at one of its statements, or at its commit."""
        self.trouble = Fault(kind)
        self._ahead = ahead

    def teardown(self) -> None:
        if self.histories % 4 == 0:
            self._heal()

    # -- calls, and the laws around them -----------------------------------------------------------

    def _call(
        self, call: Callable[[], Any], touched: set[str] | None, retried: Iterable[str] = (), claims: int = 0
    ) -> Any:
        """The answer, or NOTHING where a fault left the caller without one. `touched` None: new jobs only."""
        type(self).calls += 1
        injector, fault = self.world.injector, self.trouble
        self.trouble = None
        injector.fired.clear()
        if fault is not None:
            injector.arm(fault, self._ahead)
        try:
            said = call()
        except DatabaseUnavailable:
            must(injector.fired, "the database was said to be away, and it was not")
            said = NOTHING
        finally:
            injector.disarm()
        self.broken = bool(injector.fired)
        type(self).faults += self.broken
        self.before, self.now = self.now, take(self.world.eyes, self.last_event)
        if self.now.news:
            self.last_event = self.now.news[-1].id
        changed = self.before.changed(self.now)
        if touched is None:
            touched = self.now.jobs.keys() - self.before.jobs.keys()
        must(changed <= touched, f"it changed {changed - touched} too")
        check_step(self.before, self.now, retried, claims)
        check_paid(self.before, self.now)
        check_state(self.now, self.store.objects)
        return said

    def _answer(self, said: Any, expected: bool, done: bool, what: str) -> None:
        """`done`: whether this claim has already been ended, or begun, as it asks now.

        A caller whose connection broke is told what is true by now; any other, whether this very call did it.
        """
        if said is NOTHING:  # whoever cannot say what came of it has looked, and nothing had
            must(self.before.same(self.now), f"{what}: it happened, and the caller does not know")
            return
        must(said is (expected or (self.broken and done)), f"{what}: the answer was {said}")
        if not expected:
            must(self.before.same(self.now), f"{what}: void, and yet it changed something")

    def _outcome(self, key: tuple[str, int]) -> str | None:
        return self.before.attempts[key].outcome

    def _claim(self, worker: str, lane: str) -> None:
        head = self._head(worker, lane)
        moment = self.clock()
        made = self._call(lambda: leases.claim(self.db, worker, lane, TTL), {head} if head else set(), claims=1)
        if made is NOTHING:  # the lease of a claim that nobody has heard of must run out
            for lease in self.now.leases.values():
                self.expires.setdefault((lease.job, lease.epoch), moment + timedelta(seconds=TTL))
            return
        got = None if made is None else made.job
        must(got == head, f"{worker} got {got} from {lane}, whose head is {head}")
        if made is not None:
            must(made.epoch == self.before.jobs[made.job].epoch + 1, f"the claim {made} has an old epoch")
            self.claims.append(made)
            self.expires[made.job, made.epoch] = moment + timedelta(seconds=TTL)

    def _finish(self, assignment: Assignment) -> None:
        key = (assignment.job, assignment.epoch)
        job = self.now.jobs[key[0]]
        artifact = self._upload(assignment)
        said = self._call(lambda: leases.finish(self.db, *key, artifact, {}), {key[0]})
        if said is NOTHING:
            must(self.before.same(self.now), f"{key} was finished, and its worker does not know")
            return
        possible = job.active or job.state is JobState.QUEUED
        again = job.state is JobState.SUCCEEDED
        must(said is (job.is_claim(key[1]) and (possible or again)), f"finish of {key}, which was {job}: {said}")
        if not (job.is_claim(key[1]) and possible):
            must(self.before.same(self.now), f"finish of {key}: void, and yet it changed something")

    def _upload(self, assignment: Assignment) -> Artifact:
        artifact = video_of(assignment)
        self.store.put(artifact.key, artifact.sha256)
        check_state(self.now, self.store.objects)
        return artifact

    def _reap(self) -> None:
        moment = self.clock()
        overdue = {
            (x.job, x.epoch) for x in self.now.leases.values() if self.expires[x.job, x.epoch] < moment
        }  # fmt: skip
        before = self.now.jobs
        said = self._call(lambda: leases.reap(self.db), {job for job, _ in overdue})
        if said is NOTHING:
            return
        must({key[:2] for key in said} == overdue, f"reaped {said}, overdue were {overdue}")
        for job, _, state in said:
            was, row = before[job], self.now.jobs[job]
            must(state is row.state, f"{job} was said to be {state} and is {row.state}")
            if was.cancelling:
                must(state is JobState.CANCELLED, f"nobody wants {job} any more, and it is {state}")
            must(was.state is JobState.RUNNING or row.failures == was.failures, f"{job} was blamed before it ran")

    def _due(self) -> None:
        idle = self._idle_lanes()
        moment = self.clock()
        ready = {
            job.id for job in self.now.jobs.values()
            if job.state is JobState.SCHEDULED and self.not_before[job.id] <= moment
        }  # fmt: skip
        said = self._call(lambda: leases.due(self.db), ready)
        if said is not NOTHING:
            must(set(said) == ready, f"due were {ready}, queued {said}")
        self._check_woken(idle)

    def _heal(self) -> None:
        """Faults stop. Everything accepted comes to its end, and no owner waits for another's backlog."""
        self.trouble = None
        for lane in sorted(self.closed):
            lanes.open_lane(self.db, lane)
        self.closed.clear()
        for job in list(self.now.jobs.values()):
            if job.state is JobState.HELD and not job.hidden_at:
                self._call(lambda job=job: jobs.release(self.db, job.id), {job.id})
        self.clock.forward(3700.0)
        self._reap()
        crew = [self._new_worker() for _ in range(2)]
        served = dict.fromkeys(self.now.lanes, 0.0)
        paid = dict(self.now.lanes)
        started_with = {lane: self._waiting(lane) for lane in self.now.lanes}
        for _ in range(4 * len(self.now.jobs) + 8):
            self._due()
            hands: list[Assignment] = []
            for worker in crew:
                lane = self._choose(worker)
                if lane is not None:
                    self._claim(worker, lane.id)
                    hands.append(self.claims[-1])
                    self._call(lambda: leases.start(self.db, hands[-1].job, hands[-1].epoch), {hands[-1].job})
            self.clock.forward(JOB_SECONDS)
            for assignment in hands:
                served[self.now.jobs[assignment.job].lane] += JOB_SECONDS
                self._finish(assignment)
            self._check_fair(served, paid, started_with)
            if not hands:
                break
        left = [job for job in self.now.jobs.values() if not job.final]
        must(not [job for job in left if not (job.state is JobState.HELD and job.hidden_at)], f"stuck: {left}")

    def _check_fair(self, served: dict[str, float], paid: dict[str, float], began: dict[str, int]) -> None:
        """Of two lanes of a class that both wait all the time, none gets ahead of the other by more than is in hand."""
        waiting = [lane for lane in served if began[lane] and self._waiting(lane)]
        for mine in waiting:
            for other in waiting:
                if mine.split("/")[2] == other.split("/")[2]:
                    lead = paid[mine] + served[mine] - paid[other] - served[other]
                    allowed = max(0.0, paid[mine] - paid[other]) + 3 * JOB_SECONDS
                    must(lead <= allowed, f"{other} waits for the backlog of {mine}: {lead} s ahead")

    # -- the model ---------------------------------------------------------------------------------

    def _remember(self, job: str, start: datetime | None) -> None:
        row = self.now.jobs[job]
        if start is not None:
            self.not_before[job] = start
        if row.idempotency_key is not None:
            _, owner, batch = job, row.lane.split("/")[0], self._batch(job)
            self.keys[owner, batch, row.idempotency_key] = job

    def _batch(self, job: str) -> str | None:
        with self.world.eyes.read() as conn:
            return conn.exec_driver_sql(f"SELECT batch FROM jobs WHERE id = '{job}'").scalar_one()

    def _job(self, which: int) -> JobRow:
        ordered = sorted(self.now.jobs.values(), key=lambda job: -job.seq)
        return ordered[which % len(ordered)]

    def _assignment(self, back: int) -> Assignment:
        """Mostly one that is in force, if there is any; else any that ever was."""
        live = [a for a in self.claims if (lease := self.now.leases.get(a.job)) and lease.epoch == a.epoch]
        some = live if live and back < 4 else self.claims
        return some[-1 - back % len(some)]

    def _claimed(self, back: int) -> tuple[tuple[str, int], JobRow]:
        assignment = self._assignment(back)
        return (assignment.job, assignment.epoch), self.now.jobs[assignment.job]

    def _order(self, assignment: Assignment) -> Order:
        lease = self.now.leases.get(assignment.job)
        if lease is None or lease.epoch != assignment.epoch:
            return Order.LOST
        if self.now.jobs[assignment.job].cancelling:
            return Order.CANCEL
        return Order.CONTINUE if self.wishes[assignment.worker] is Wish.RUN else Order.DRAIN

    def _moved_by(self, asked: Iterable[tuple[str, int]], orders: dict[tuple[str, int], Order]) -> set[str]:
        return self.before.changed(self.now) - {key[0] for key in asked if orders[key] is not Order.LOST}

    def _learn_leases(self, asked: Iterable[tuple[str, int]], moment: datetime) -> None:
        """After a renewal without an answer: either all of it happened, or nothing."""
        if self.before.changed(self.now):
            for key in asked:
                lease = self.now.leases.get(key[0])
                if lease is not None and lease.epoch == key[1]:
                    self.expires[key] = moment + timedelta(seconds=TTL)

    def _head(self, worker: str, lane: str) -> str | None:
        if lane in self.closed or self.wishes[worker] is not Wish.RUN or worker in self.gone:
            return None
        queued = [job for job in self.now.jobs.values() if job.state is JobState.QUEUED and job.lane == lane]
        return min(queued, key=lambda job: (-job.priority, job.seq)).id if queued else None

    def _choose(self, worker: str) -> LaneView | None:
        """The lane that is next for this worker, by the farm's own pure choice over what the database says."""
        me = next(w for w in workers.find(self.db, gone_within=1e9) if w.id == worker)
        choice = next_lane(lanes.lanes(self.db), _alive(me), self.clock())
        return choice if isinstance(choice, LaneView) else None

    def _idle_lanes(self) -> set[str]:
        busy = {job.lane for job in self.now.jobs.values() if job.state in UNFINISHED}
        return self.now.lanes.keys() - busy

    def _waiting(self, lane: str) -> int:
        return sum(job.lane == lane and job.state is JobState.QUEUED for job in self.now.jobs.values())

    def _check_woken(self, idle: set[str]) -> None:
        """A lane that was away joins at the minimum of the busy ones: it neither owns the farm nor waits for all."""
        busy_before = {job.lane for job in self.before.jobs.values() if job.state in UNFINISHED}
        woken = {job.lane for job in self.now.jobs.values() if job.state in UNFINISHED} - busy_before
        for lane in woken:
            peers = [
                self.before.lanes[other] for other in busy_before if other.split("/")[2] == lane.split("/")[2]
            ]  # fmt: skip
            own = self.before.lanes.get(lane, 0.0)
            if peers:
                must(self.now.lanes[lane] >= min(own, *peers), f"{lane} lost time")
                must(self.now.lanes[lane] >= min(peers), f"{lane} was away and owns the farm: {self.now.lanes}")
                must(self.now.lanes[lane] <= max(own, *peers), f"{lane} joins behind everyone: {self.now.lanes}")

    def _new_worker(self) -> str:
        self.born += 1
        worker = f"w{self.born}"
        workers.register(self.db, NewWorker(worker, "n1", f"gpu-{self.born % 2}", "Test GPU", 4711))
        self.workers.append(worker)
        self.wishes[worker] = Wish.RUN
        # What is said of workers is no job's news.
        self.now = take(self.world.eyes, 0)
        self.last_event = self.now.news[-1].id if self.now.news else 0
        return worker


def _alive(worker: Worker) -> Worker:
    """This world has no beats: nobody is swept away for silence."""
    return worker


def _beat(assignment: Assignment, progress: Progress) -> Beat:
    return Beat(assignment.worker, assignment.job, assignment.epoch, progress, ("d1",), "busy", None, 0)


def _asked(ask: Callable[..., Any], db: Database, *arguments: Any) -> type[Exception] | None:
    """None: it was done; else the refusal."""
    try:
        ask(db, *arguments)
    except (StateConflict, JobNotFound) as refusal:
        return type(refusal)
    return None


_FROM: dict[Any, frozenset[JobState]] = {
    jobs.cancel: frozenset(JobState) - {JobState.SUCCEEDED, JobState.FAILED},
    jobs.hold: frozenset({JobState.SCHEDULED, JobState.QUEUED}),
    jobs.release: frozenset({JobState.HELD}),
    jobs.retry: frozenset({JobState.FAILED, JobState.CANCELLED}),
    jobs.hide: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
}


def _may(ask: Callable[..., Any], job: JobRow) -> type[Exception] | None:
    if job.hidden_at:
        return JobNotFound
    if job.state in _FROM[ask] or (ask is jobs.hide and job.cancelling):
        return None
    return StateConflict
