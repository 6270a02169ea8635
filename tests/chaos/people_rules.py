"""What people do in a history: submit, change their minds, open and close lanes, set workers and GPUs aside."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from farm.db import jobs, lanes, nodes, quarantines, workers
from farm.db.engine import Database
from farm.domain.errors import IdempotencyConflict, InvalidRequest, JobNotFound, NodeNotFound, StateConflict
from farm.domain.job import Dependency, NewJob
from farm.domain.states import After, JobState, Wish
from tests.chaos import expected
from tests.chaos.calling import NODES, NOTHING, History
from tests.chaos.laws import must
from tests.chaos.world import OWNERS, spec_of

MOST_JOBS = 8
WISHES = (Wish.RUN, Wish.RUN, Wish.DRAIN, Wish.RESTART)


class People(History):
    @initialize(owners=st.lists(st.sampled_from(OWNERS), min_size=1, max_size=3), claims=st.integers(0, 2))
    def begin(self, owners: list[str], claims: int) -> None:
        """A farm at work: the interesting things happen to claims."""
        for owner in owners:
            self.submit_one(NewJob(spec_of("a red kite"), owner=owner))
        for which in range(claims):
            self.take_up(which)

    def take_up(self, which: int) -> None:
        raise NotImplementedError  # a worker's rule

    @precondition(lambda self: len(self.now.jobs) < MOST_JOBS)
    @rule(
        owner=st.sampled_from(OWNERS), interactive=st.booleans(), count=st.integers(1, 3),
        key=st.sampled_from([None, None, "k1", "k2"]), batch=st.sampled_from([None, None, "b"]),
        later=st.sampled_from([None, None, None, 20.0]), hold=st.sampled_from([False, False, False, True]),
        other_spec=st.booleans(), priority=st.sampled_from([0, 0, 5]),
    )  # fmt: skip
    def submit(
        self, owner: str, interactive: bool, count: int, key: str | None, batch: str | None, later: float | None,
        hold: bool, other_spec: bool, priority: int,
    ) -> None:  # fmt: skip
        start = None if later is None else self.clock() + timedelta(seconds=later)
        prompt = "another" if other_spec and key is not None else "a red kite"
        self.submit_one(
            *(
                NewJob(
                    spec_of(prompt), owner=owner, batch=batch, interactive=interactive, hold=hold,
                    priority=priority, not_before=start, idempotency_key=None if key is None else f"{key}-{n}",
                )
                for n in range(count)
            )
        )  # fmt: skip

    @precondition(lambda self: 0 < len(self.now.jobs) < MOST_JOBS)
    @rule(which=st.integers(0, 7), after=st.sampled_from(After), twice=st.booleans())
    def submit_after(self, which: int, after: After, twice: bool) -> None:
        """One that waits for another, and with `twice` a second one that waits for the first."""
        first = self.job_at(which)
        wish = NewJob(spec_of("then"), owner=first.owner, depends_on=(Dependency(first.id, after),))
        known = self.now.jobs.keys()
        self.submit_one(wish)
        made = self.now.jobs.keys() - known
        if twice and made:
            (second,) = made
            self.submit_one(NewJob(spec_of("at last"), owner=first.owner, depends_on=(Dependency(second),)))

    def submit_one(self, *wishes: NewJob) -> None:
        before = self.now
        known = [self._job_of(wish) for wish in wishes]
        conflict = any(
            job and before.jobs[job].spec != w.spec.canonical() for job, w in zip(known, wishes, strict=True)
        )
        states = {job.id: job.state for job in before.jobs.values()}
        refused = any(self._is_hopeless(states, one) for wish in wishes for one in wish.depends_on)
        made = self.call(lambda: _submitted(self.db, wishes), None)
        created = self.now.jobs.keys() - self.before.jobs.keys()
        if made is NOTHING:
            must(len(created) in (0, known.count(None)), f"half of a submission was accepted: {created}")
            return
        must((made is IdempotencyConflict) == conflict, f"the keys {known} conflict: {conflict}, it said {made}")
        must(conflict or (made is InvalidRequest) == refused, f"it can never start: {refused}, it said {made}")
        if isinstance(made, type):
            must(self.before.same(self.now), "a refused submission left something behind")
            return
        for wish, job, said in zip(wishes, known, made, strict=True):
            must(said.created == (job is None), f"{said.job.id} created: {said.created}, its key had {job}")
            must(job is None or said.job.id == job, f"the key of {job} made {said.job.id}")
            must(said.job.id in self.now.jobs, f"accepted and not there: {said.job.id}")
            waits = (wish.not_before is not None and wish.not_before > self.clock()) or not all(
                expected.met(states | {said.job.id: JobState.QUEUED}, self.now, said.job.id)
                for _ in wish.depends_on
            )
            state = JobState.HELD if wish.hold else JobState.SCHEDULED if waits else JobState.QUEUED
            must(
                job is not None or said.job.state is state, f"{said.job.id} begins as {said.job.state}, not {state}"
            )

    def _job_of(self, wish: NewJob) -> str | None:
        """The job that this key has made."""
        if wish.idempotency_key is None:
            return None
        key = (wish.owner, wish.batch, wish.idempotency_key)
        rows = [job for job in self.now.jobs.values() if (job.owner, job.batch, job.idempotency_key) == key]
        must(len(rows) < 2, f"one key, several jobs: {rows}")
        return rows[0].id if rows else None

    def _is_hopeless(self, states: dict[str, JobState], one: Dependency) -> bool:
        if self.now.jobs[one.needs].hidden_at:
            return True  # as good as none
        return one.after is After.SUCCESS and states[one.needs] in {JobState.FAILED, JobState.CANCELLED}

    @precondition(lambda self: self.now.jobs)
    @rule(
        which=st.integers(0, 7),
        ask=st.sampled_from([jobs.cancel, jobs.cancel, jobs.hold, jobs.release, jobs.retry, jobs.retry, jobs.hide]),
    )
    def person(self, which: int, ask: Callable[..., Any]) -> None:
        self.ask(ask, self.job_at(which).id)

    @precondition(lambda self: self.claims)
    @rule(back=st.integers(0, 7))
    def cancel_claimed(self, back: int) -> None:
        """What people do most to a job that runs."""
        self.ask(jobs.cancel, self.assignment_at(back).job)

    @precondition(lambda self: self.now.jobs)
    @rule(which=st.integers(0, 7), priority=st.sampled_from([-5, 0, 5, 9]))
    def set_priority(self, which: int, priority: int) -> None:
        self.ask(jobs.set_priority, self.job_at(which).id, priority)

    def ask(self, ask: Callable[..., Any], job_id: str, *more: Any) -> None:
        job = self.now.jobs[job_id]
        wanted = expected.refusal(ask, self.now, job)
        said = self.call(
            lambda: _asked(ask, self.db, job.id, *more), {job.id}, {job.id} if ask is jobs.retry else ()
        )
        must(said is NOTHING or said is wanted, f"{ask.__name__} of a job that is {job}: {said}")
        after = self.now.jobs[job.id]
        if ask is jobs.retry and after.state is not job.state:
            must((after.failures, after.cancelling) == (0, False), f"not a clean slate: {after}")
        if ask is jobs.cancel and said is None:
            done = after.cancelling if after.active else after.state is JobState.CANCELLED
            must(done, f"{job.id} was to be cancelled and is {after.state}")

    # -- operators ---------------------------------------------------------------------------------

    @precondition(lambda self: self.now.lanes)
    @rule(which=st.integers(0, 3), closed=st.booleans())
    def lane(self, which: int, closed: bool) -> None:
        name = sorted(self.now.lanes)[which % len(self.now.lanes)]
        if closed:
            self.call(lambda: lanes.close_lane(self.db, name, "night"), set())
        else:
            self.call(lambda: lanes.open_lane(self.db, name), set())

    @rule(which=st.integers(0, 3), wish=st.sampled_from(WISHES), now=st.booleans())
    def wish_of_worker(self, which: int, wish: Wish, now: bool) -> None:
        worker = self.worker_at(which)
        self.call(lambda: workers.wish(self.db, worker, wish, "ops", None, now), set())

    @rule(node=st.sampled_from(NODES), wish=st.sampled_from(WISHES), now=st.booleans())
    def wish_of_node(self, node: str, wish: Wish, now: bool) -> None:
        def act() -> None:
            try:
                nodes.wish(self.db, node, wish, "ops", None, now)
            except NodeNotFound:
                must(node not in {w.node for w in self.now.workers.values()}, f"{node} was not found")

        self.call(act, set())

    @rule(which=st.integers(0, 3), seconds=st.sampled_from([60.0, None]), aside=st.booleans())
    def quarantine(self, which: int, seconds: float | None, aside: bool) -> None:
        gpu = self.now.workers[self.worker_at(which)].gpu
        if aside:
            self.call(lambda: quarantines.put(self.db, gpu, "it smells", "ops", seconds), set())
        else:
            self.call(lambda: quarantines.release(self.db, gpu, "ops"), set())


def _submitted(db: Database, wishes: tuple[NewJob, ...]) -> Any:
    try:
        return jobs.submit(db, wishes)
    except (IdempotencyConflict, InvalidRequest) as refusal:
        return type(refusal)


def _asked(ask: Callable[..., Any], db: Database, *arguments: Any) -> type[Exception] | None:
    """None: it was done; else the refusal."""
    try:
        ask(db, *arguments)
    except (StateConflict, JobNotFound) as refusal:
        return type(refusal)
    return None
