"""A state machine over the job protocol: people, workers, the clock, the reaper and faults, in any order.

Each rule makes one call of farm/db, says what it must answer and which jobs it may touch; the laws see to the rest.
"""

from hypothesis import strategies as st
from hypothesis.stateful import rule

from farm.db import jobs, lanes, leases, nodes, quarantines, workers
from farm.domain.job import Assignment
from farm.domain.states import JobState, Outcome, Wish
from farm.domain.worker import Beat
from tests.chaos import expected
from tests.chaos.calling import NODES, NOTHING
from tests.chaos.injector import ERRORS, Fault, Kind
from tests.chaos.laws import must
from tests.chaos.people_rules import People
from tests.chaos.worker_rules import Workers
from tests.chaos.world import TTL

JOB_SECONDS = 10.0


class Protocol(Workers, People):
    """All rules together, those of the farm's own housekeeping, and the end at which every fourth history heals."""

    @rule(seconds=st.sampled_from([1.0, 5.0, 12.0, 31.0, 31.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.forward(seconds)

    @rule(node=st.sampled_from(NODES))
    def agent_beats(self, node: str) -> None:
        """The agent says that it lives, and tells of the workers that it hears."""
        self.call(lambda: nodes.beat(self.db, node, f"agent-{node}"), set())
        heard = [w for w in self.workers if self.now.workers[w].node == node]
        beats = [Beat(worker, None, 0, None, ("d1",), "idle", None, 0) for worker in heard]
        self.call(lambda: workers.beat(self.db, beats), set())

    @rule()
    def sweep(self) -> None:
        self.call(lambda: workers.sweep(self.db), set())

    @rule(gpu=st.integers(0, 2), passes=st.booleans())
    def probe(self, gpu: int, passes: bool) -> None:
        name = f"gpu-{gpu}"
        row = self.now.quarantines.get(name)
        is_due = (
            row is not None and row.released_at is None and name in {q.gpu for q in quarantines.probe_due(self.db)}
        )
        act = quarantines.probe_passed if passes else quarantines.probe_failed
        said = self.call(lambda: act(self.db, name, "said"), set())
        must(said is NOTHING or said is is_due, f"a probe of {name} that was {row}: {said}")

    @rule()
    def reap(self) -> None:
        late = expected.overdue(self.now, self.clock())
        before = self.now
        said = self.call(lambda: leases.reap(self.db), {job for job, _ in late})
        if said is NOTHING:
            return
        must({key[:2] for key in said} == late.keys(), f"reaped {said}, overdue were {late}")
        for job, epoch, state in said:
            was, row = before.jobs[job], self.now.jobs[job]
            must(state is row.state, f"{job} was said to be {state} and is {row.state}")
            must(
                not was.cancelling or state is JobState.CANCELLED, f"nobody wants {job} any more, and it is {state}"
            )
            lived = expected.agent_lived(before, late[job, epoch])
            blamed = expected.blames(before, was, epoch, Outcome.LOST, lived)
            must(
                row.failures - was.failures == blamed, f"{job}: blamed {row.failures - was.failures}, not {blamed}"
            )

    @rule()
    def leases_run_out(self) -> None:
        self.clock.forward(TTL + 1)
        self.reap()

    @rule()
    def due(self) -> None:
        ready, cancelled = expected.due(self.now, self.clock())
        said = self.call(lambda: leases.due(self.db), ready | cancelled)
        if said is NOTHING:
            return
        must(set(said) == ready, f"due were {ready}, queued {said}")
        for job in cancelled:
            row = self.now.jobs[job]
            must(row.state is JobState.CANCELLED, f"what {job} waits for cannot come, and it is {row.state}")
            must(row.error and row.error["code"] == "dependency_failed", f"{job} does not say why: {row.error}")

    @rule(kind=st.sampled_from(ERRORS), ahead=st.sampled_from([0, 1, 2, 3, 5, 8]))
    def fault(self, kind: Kind, ahead: int) -> None:
        """The next call meets a database that breaks at one of its statements, or at its commit."""
        self.trouble = (Fault(kind), ahead)

    @rule(kind=st.sampled_from(ERRORS))
    def commit_fails(self, kind: Kind) -> None:
        """Or says so: the next call's, whatever that will be."""
        self.trouble = (Fault(kind), None)

    # -- the end -----------------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.histories % 4 == 0:
            self._heal()

    def _heal(self) -> None:
        """Faults stop. Everything accepted comes to its end, and no owner waits for another's backlog."""
        self.trouble = None
        self._everything_is_well()
        crew = [self.new_worker() for _ in range(3)]
        served = dict.fromkeys(self.now.lanes, 0.0)
        paid = {lane: row.virtual_time for lane, row in self.now.lanes.items()}
        began = {lane: self.waiting_in(lane) for lane in self.now.lanes}
        for _ in range(4 * len(self.now.jobs) + 8):
            self.due()
            hands: list[Assignment] = []
            for worker in crew:
                lane = self.choose(worker)
                made = None if lane is None else self.claim_of(worker, lane.id)
                if made is not None:
                    hands.append(made)
                    self.start_of(made)
            self.clock.forward(JOB_SECONDS)
            for assignment in hands:
                served[self.now.jobs[assignment.job].lane] += JOB_SECONDS
                self.finish_of(assignment)
            if not any(job.avoid for job in self.now.jobs.values()):
                self._check_fair(served, paid, began)
            if not hands:
                if all(job.final for job in self.now.jobs.values()):
                    break
                self.clock.forward(600.0)  # some rest, after they were lost again and again
        left = [job for job in self.now.jobs.values() if not job.final and not job.hidden_at]
        must(not left, f"stuck: {left}")

    def _everything_is_well(self) -> None:
        for lane in self.now.lanes:
            lanes.open_lane(self.db, lane)
        for gpu in self.now.quarantines:
            quarantines.release(self.db, gpu, "ops")
        for node in self.now.nodes:
            nodes.wish(self.db, node, Wish.RUN)
        for worker in self.now.workers:
            workers.gone(self.db, worker)
        self._look()
        for job in list(self.now.jobs.values()):
            if job.state is JobState.HELD:
                # What could never start is cancelled instead.
                hopeless = expected.refusal(jobs.release, self.now, job) is not None
                self.ask(jobs.cancel if hopeless else jobs.release, job.id)
        self.clock.forward(3700.0)
        self.reap()

    def _check_fair(self, served: dict[str, float], paid: dict[str, float], began: dict[str, int]) -> None:
        """Of two lanes of a class that wait all the time, none gets further ahead than by what is in hand."""
        waiting = [lane for lane in served if began[lane] and self.waiting_in(lane)]
        for mine in waiting:
            for other in waiting:
                if mine.split("/")[2] == other.split("/")[2]:
                    lead = paid[mine] + served[mine] - paid[other] - served[other]
                    allowed = max(0.0, paid[mine] - paid[other]) + 4 * JOB_SECONDS
                    must(lead <= allowed, f"{other} waits for the backlog of {mine}: {lead} s ahead")
