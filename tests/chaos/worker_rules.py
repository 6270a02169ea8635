"""What workers do in a history, in time and long after it: claim, start, renew, finish, fail, give back, die."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from farm.db import leases, workers
from farm.db.leases import MOST_LEASES
from farm.domain.job import Assignment, JobError, Progress
from farm.domain.states import JobState, Order, Outcome, StageName
from farm.domain.worker import Beat
from tests.chaos import expected
from tests.chaos.calling import NOTHING, History
from tests.chaos.laws import CRASH_CAP, must
from tests.chaos.snapshot import JobRow, time_of
from tests.chaos.world import TTL

OOPS = JobError("oops", "it broke")
FAILURES = (Outcome.USER_ERROR, Outcome.OUT_OF_MEMORY, Outcome.DEVICE_FAULT, Outcome.DEVICE_FAULT)
RETURNS = (Outcome.DRAIN, Outcome.PREEMPT, Outcome.DEPENDENCY)
ANY_CLAIM = st.integers(0, 7)


class Workers(History):
    @rule(which=st.integers(0, 3))
    def claim(self, which: int) -> None:
        """As the dispatcher does: a lane by the rules of fairness, then that lane's head."""
        worker = self.worker_at(which)
        lane = self.choose(worker)
        if lane is not None:
            self.claim_of(worker, lane.id)

    @rule(which=st.integers(0, 3))
    def take_up(self, which: int) -> None:
        """A claim that begins to render at once, as most do."""
        known = len(self.claims)
        self.claim(which)
        if len(self.claims) > known:
            self.start_of(self.claims[-1])

    @rule(which=st.integers(0, 3))
    def prefetch(self, which: int) -> None:
        """All that a worker may hold, and one more."""
        for _ in range(MOST_LEASES + 1):
            self.claim(which)

    @precondition(lambda self: self.now.lanes)
    @rule(which=st.integers(0, 3), lane=st.integers(0, 3))
    def claim_from(self, which: int, lane: int) -> None:
        """A dispatcher that looked at the lanes some time ago, and chose what is not right any more."""
        names = sorted(self.now.lanes)
        self.claim_of(self.worker_at(which), names[lane % len(names)])

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM)
    def start(self, back: int) -> None:
        self.start_of(self.assignment_at(back))

    def start_of(self, assignment: Assignment) -> None:
        key, job = (assignment.job, assignment.epoch), self.now.jobs[assignment.job]
        said = self.call(lambda: leases.start(self.db, *key), {key[0]})
        mine = job.epoch == key[1]
        begun = mine and job.state is JobState.RUNNING
        self.answer(said, mine and job.state is JobState.LEASED, begun, f"start of {key}, which was {job}")
        if said is True:
            must(
                self.now.jobs[key[0]].state is JobState.RUNNING,
                f"{key} started and is {self.now.jobs[key[0]].state}",
            )

    @precondition(lambda self: self.claims)
    @rule(backs=st.lists(ANY_CLAIM, min_size=1, max_size=3, unique=True), k=st.integers(0, 16))
    def renew(self, backs: list[int], k: int) -> None:
        """Early or late, several in one call, some of them long void."""
        asked = {(a.job, a.epoch): a for a in (self.assignment_at(back) for back in backs)}
        beats = [_beat(a, Progress(StageName.DENOISE, k, 16)) for a in asked.values()]
        wanted = {key: expected.order(self.now, a) for key, a in asked.items()}
        moment = self.clock()
        alive = {job for (job, _), order in wanted.items() if order is not Order.LOST}
        orders = self.call(lambda: leases.renew(self.db, beats, TTL), alive)
        must(orders is NOTHING or orders == wanted, f"the orders were {orders}, not {wanted}")
        if orders is not NOTHING:
            until = {time_of(self.now.leases[job].expires_at) for job in alive}
            must(until <= {moment + timedelta(seconds=TTL)}, f"renewed until {until}")
        must(self.before.jobs == self.now.jobs, "a renewal changed a job")

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM, text=st.sampled_from(["a red kite, at dusk", "a kite, red"]))
    def expand(self, back: int, text: str) -> None:
        key, job = self.claimed_at(back)
        said = self.call(lambda: leases.expand(self.db, *key, text), {key[0]})
        mine = job.epoch == key[1] and job.state is JobState.RUNNING
        written = job.expanded_prompt
        if said is True and mine and written == text:
            must(self.before.same(self.now), f"{key} was expanded twice")
            return
        self.answer(said, mine and written is None, mine and written == text, f"expand of {key}, which was {job}")

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM)
    def upload(self, back: int) -> None:
        self.upload_of(self.assignment_at(back))

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM)
    def finish(self, back: int) -> None:
        """Also by the dead: a worker that was stopped for an hour offers what it has."""
        self.finish_of(self.assignment_at(back))

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM, outcome=st.sampled_from(FAILURES))
    def fail(self, back: int, outcome: Outcome) -> None:
        self._ends_badly(*self.claimed_at(back), outcome, True)

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM, lived=st.booleans())
    def lost(self, back: int, lived: bool) -> None:
        """A death notice, true or not."""
        self._ends_badly(*self.claimed_at(back), Outcome.LOST, lived)

    def _ends_badly(self, key: tuple[str, int], job: JobRow, outcome: Outcome, lived: bool) -> None:
        before = self.now
        if outcome is Outcome.LOST:
            said = self.call(lambda: leases.lost(self.db, *key, "it died", CRASH_CAP, lived), {key[0]})
        else:
            said = self.call(lambda: leases.fail(self.db, *key, outcome, OOPS), {key[0]})
        ours = job.epoch == key[1] and job.active
        told = job.epoch == key[1] and self.outcome_of(key) == outcome
        positive = said if said is NOTHING else said is not None
        self.answer(positive, ours, told, f"{outcome} of {key}, which was {job}")
        if said is NOTHING or not ours:
            return
        after = self.now.jobs[key[0]]
        must(said is after.state, f"{key} was said to be {said} and is {after.state}")
        blamed = outcome is not Outcome.USER_ERROR and expected.blames(before, job, key[1], outcome, lived)
        must(after.failures - job.failures == blamed, f"{outcome} of {key}: blamed {after.failures - job.failures}")
        must(bool(self.now.attempts[key].blamed) == blamed, f"{outcome} of {key}: the attempt says otherwise")
        if outcome is Outcome.USER_ERROR:
            state = JobState.FAILED  # at once, and no other worker is asked
        elif job.cancelling:
            state = JobState.CANCELLED  # nobody wants it any more
        elif outcome is Outcome.OUT_OF_MEMORY:
            state = JobState.QUEUED if after.memory_plan == job.memory_plan + 1 else JobState.FAILED
            must(job.memory_plan < 1 or state is JobState.FAILED, f"{key} has no smaller plan, and is {after}")
        else:
            state = JobState.FAILED if after.failures >= CRASH_CAP else JobState.QUEUED
        must(after.state is state, f"{outcome} of {key}: {after.state}, not {state}")

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM, outcome=st.sampled_from(RETURNS))
    def give_back(self, back: int, outcome: Outcome) -> None:
        key, job = self.claimed_at(back)
        said = self.call(lambda: leases.give_back(self.db, *key, outcome, "why"), {key[0]})
        ours = job.epoch == key[1] and job.active
        told = job.epoch == key[1] and self.outcome_of(key) == outcome
        self.answer(said, ours, told, f"give_back of {key}, which was {job}")
        if said is True and ours:
            after = self.now.jobs[key[0]]
            state = JobState.CANCELLED if job.cancelling else JobState.QUEUED
            must((after.state, after.failures) == (state, job.failures), f"{outcome} of {key}: {after}")

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM)
    def recall(self, back: int) -> None:
        key, job = self.claimed_at(back)
        said = self.call(lambda: leases.recall(self.db, *key), {key[0]})
        free = job.epoch == key[1] and job.state is JobState.LEASED and not job.cancelling
        self.answer(said, free, self.outcome_of(key) == Outcome.RECALL, f"recall of {key}, which was {job}")
        must(self.now.jobs[key[0]].failures == job.failures, f"a recall blamed {key}")

    @precondition(lambda self: self.claims)
    @rule(back=ANY_CLAIM)
    def obey_cancel(self, back: int) -> None:
        key, job = self.claimed_at(back)
        said = self.call(lambda: leases.cancelled(self.db, *key), {key[0]})
        ours = job.epoch == key[1] and job.active and job.cancelling
        self.answer(said, ours, self.outcome_of(key) == Outcome.CANCELLED, f"cancelled {key}, which was {job}")

    @rule(which=st.integers(0, 3), noticed=st.booleans())
    def crash(self, which: int, noticed: bool) -> None:
        """A process dies between two calls. Somebody may notice; its boot id never comes back."""
        worker = self.worker_at(which)
        self.workers.remove(worker)
        if noticed:
            held = leases.held(self.db, worker)
            mine = {(lease.job, lease.epoch) for lease in self.now.leases.values() if lease.worker == worker}
            must(set(held) == mine, f"it held {mine}, not {held}")
            for key in held:
                self._ends_badly(key, self.now.jobs[key[0]], Outcome.LOST, True)
            self.call(lambda: workers.gone(self.db, worker), set())
        self.new_worker()


def _beat(assignment: Assignment, progress: Progress) -> Beat:
    return Beat(assignment.worker, assignment.job, assignment.epoch, progress, ("d1",), "busy", None, 0)
