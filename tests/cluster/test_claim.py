"""How long a worker may believe in its claim, and what it says and hears about it."""

from pathlib import Path

from farm.cluster.beats import Answer, SentBeat
from farm.cluster.claim import Claim
from farm.domain.job import Assignment, JobSpec, Progress
from farm.domain.states import Order, Outcome, StageName
from farm.domain.worker import Beat, Load

ASSIGNMENT = Assignment("j", 1, "w", JobSpec("t2v", "m", "d", "p", 96, 96, 17, 12, 4, 7, 3.0))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_is_fenced_before_its_lease_can_run_out():
    clock = Clock()
    claim = Claim(ASSIGNMENT, 30.0, clock)
    clock.now = 126.9
    assert claim.must_stop() is None
    clock.now = 127.0
    assert claim.must_stop() is Outcome.LOST
    assert claim.told_to_stop() is None  # nobody said so: a finished file may still be offered


def test_a_renewal_counts_from_when_its_beat_was_sent():
    clock = Clock()
    claim = Claim(ASSIGNMENT, 30.0, clock)
    clock.now = 120.0
    claim.renewed(110.0)
    claim.renewed(105.0)  # an older answer that came late
    clock.now = 136.9
    assert claim.must_stop() is None
    clock.now = 137.0
    assert claim.must_stop() is Outcome.LOST


def test_an_order_to_stop_is_not_taken_back_by_a_late_answer():
    claim = Claim(ASSIGNMENT, 30.0)
    claim.heed(Order.CANCEL)
    claim.heed(Order.CONTINUE)
    assert claim.must_stop() is Outcome.CANCELLED
    claim.heed(Order.LOST)
    claim.heed(Order.CANCEL)
    assert claim.must_stop() is Outcome.LOST


def test_beats_and_answers_survive_the_wire():
    progress = Progress(StageName.DENOISE, 3, 16, preview_step=2, worker="w")
    sent = SentBeat(Beat("w", "j", 2, progress, ("d",), "busy", 5, 1), 12.5, Path("/run/w.sock"), 30.0)
    assert SentBeat.decode(sent.encode()) == sent
    load = Load(97, 70 << 30, 71, 640, (96, 97), (70, 71))
    idle = SentBeat(Beat("w", None, 0, None, (), "idle", None, 0, load), 12.5, Path("/run/w.sock"), 30.0)
    assert SentBeat.decode(idle.encode()) == idle
    answer = Answer("j", 2, Order.CANCEL, 12.5, leave=True)
    assert Answer.decode(answer.encode()) == answer


def test_a_stage_without_progress_is_overdue():
    clock = Clock()
    claim = Claim(ASSIGNMENT, 30.0, clock)
    claim.allow({StageName.DENOISE: 60.0, StageName.LOADING: 10.0})
    claim.report(StageName.DENOISE, 3, 8)
    clock.now += 60.0
    assert claim.overdue() is None
    clock.now += 1.0
    overdue = claim.overdue()
    assert overdue is not None
    assert overdue.cause == "no progress for 61 s in denoise, step 3 of 8; 60 s are long enough"
    claim.report(StageName.DENOISE, 4, 8)  # every step counts anew
    assert claim.overdue() is None
    claim.report(StageName.UPLOAD)
    clock.now += 10_000.0
    assert claim.overdue() is None, "with a finished video it may wait for ever"
