"""`farm why`: every state has one true sentence and, where people can help, how."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from farm.domain.job import Artifact, Job, JobError, JobSpec, Progress
from farm.domain.states import JobState, StageName, Wish
from farm.domain.worker import Worker
from farm.scheduling.lanes import LaneView, Reason
from farm.scheduling.why import why

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)
SPEC = JobSpec("t2v", "demo-t2v", "d1", "a kite", 96, 96, 17, 12, 16, 7, 3.0)
LANE = "local/default/interactive/demo-t2v"
JOB = Job(
    id="job_abcdefghijkl", spec=SPEC, state=JobState.QUEUED, owner="local", project="default", batch=None,
    lane=LANE, idempotency_key=None, priority=0, epoch=0, failures=0, created_at=NOW, updated_at=NOW,
    started_at=None, finished_at=None, not_before=None, cancel_requested_at=None, artifact=None, error=None,
    progress=None, tags={},
)  # fmt: skip
IDLE = Worker("w1", "n1", "gpu-1", "Test GPU", 1, ("d1",), Wish.RUN, "idle", NOW, NOW, 0, None)
BUSY = replace(IDLE, id="w2", state="busy")
OPEN = LaneView(LANE, "interactive", "demo-t2v", 0.0, 1.0, 1, 0, None)


AWAY = Reason("store_away", "the store at http://s3 does not answer", "start it")


def reason(job=JOB, position=0, lanes=(OPEN,), workers=(IDLE,), installed=None, store=None):
    return why(job, position, lanes, workers, NOW, installed, store)


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_a_sentence(state):
    for at in (None, Progress(StageName.DENOISE, 3, 16, None, "w1")):
        for wish in (None, NOW):
            said = reason(replace(JOB, state=state, progress=at, cancel_requested_at=wish))
            assert said.code
            assert said.sentence[0].isalpha()
            assert said.sentence.endswith(".")


def test_held():
    said = reason(replace(JOB, state=JobState.HELD))
    assert (said.code, said.sentence) == ("held", "It is held and will not start by itself.")
    assert said.help == "let it go: farm release job_abcdefghijkl"


def test_scheduled():
    job = replace(JOB, state=JobState.SCHEDULED, not_before=NOW + timedelta(hours=10))
    assert reason(job).sentence == "It waits for 2026-11-03 22:00:00 UTC, 10 hours from now."
    due = reason(replace(job, not_before=NOW))
    assert due.sentence == "Its time has come; it joins the queue in a moment."


@pytest.mark.parametrize(
    ("kwargs", "code", "words"),
    [
        ({"workers": ()}, "no_worker", "No worker is running."),
        ({"workers": (replace(IDLE, state="gone"),)}, "no_worker", "No worker is running."),
        (
            {"workers": (replace(IDLE, heartbeat_at=NOW - timedelta(seconds=300)),)},
            "workers_silent",
            "for 5 minutes",
        ),
        ({"workers": (replace(IDLE, wish=Wish.DRAIN),)}, "workers_unwilling", "set to drain"),
        ({"workers": (replace(IDLE, state="starting"),)}, "workers_starting", "The worker is still starting"),
        ({"installed": ["other"]}, "model_missing", "demo-t2v are not installed"),
        ({"lanes": (replace(OPEN, closed_reason="budget spent."),)}, "lane_closed", "budget spent."),
        ({"position": 1, "workers": (BUSY,)}, "behind_others", "1 job of its lane goes first, and the only"),
        ({"position": 4, "workers": (BUSY, BUSY)}, "behind_others", "4 jobs of its lane go first, and all 2"),
        ({"position": 1}, "behind_others", "1 of 1 workers are idle"),
        ({"workers": (BUSY,)}, "workers_busy", "the next of its lane, but the only worker is busy"),
        ({}, "next", "an idle worker takes it in a moment."),
        ({"workers": (replace(IDLE, models=()),)}, "next", "loads demo-t2v first"),
        ({"job": replace(JOB, failures=2)}, "next", "2 attempts of it failed before."),
    ],
)
def test_queued(kwargs, code, words):
    said = reason(**kwargs)
    assert said.code == code
    assert words in said.sentence


def test_queued_in_bulk_behind_interactive_jobs():
    bulk = replace(OPEN, id="local/default/bulk/demo-t2v", cls="bulk")
    job = replace(JOB, lane=bulk.id)
    said = reason(job, lanes=(bulk, replace(OPEN, waiting=3)), workers=(BUSY,))
    assert said.code == "interactive_first"
    assert said.sentence.startswith("3 interactive jobs go before all bulk jobs")
    assert reason(job, lanes=(bulk, replace(OPEN, waiting=0)), workers=(BUSY,)).code == "workers_busy"


def test_leased():
    job = replace(JOB, state=JobState.LEASED, progress=Progress(StageName.LOADING, worker="w1"))
    assert reason(job).sentence == "w1 has taken it and is about to start."
    cold = reason(job, workers=(replace(IDLE, models=()),))
    assert (cold.code, cold.sentence) == ("loading", "w1 has taken it and must load demo-t2v first.")
    assert reason(replace(job, cancel_requested_at=NOW)).code == "cancelling"


def test_running():
    at = Progress(StageName.DENOISE, 3, 16, None, "w1")
    job = replace(JOB, state=JobState.RUNNING, started_at=NOW - timedelta(seconds=90), progress=at)
    said = reason(job).sentence
    assert said == "w1 has been rendering it for 90 seconds: denoise, step 3 of 16."
    decode = replace(job, progress=Progress(StageName.DECODE, worker="w1"))
    assert reason(decode).sentence.endswith(": decode.")
    stopping = reason(replace(job, cancel_requested_at=NOW - timedelta(seconds=1)))
    assert stopping.sentence == "It was asked to stop just now; w1 obeys at its next step."


def test_final():
    then = NOW - timedelta(days=3)
    artifact = Artifact("k", "s", 1, 17, 1.4, "p")
    done = replace(JOB, state=JobState.SUCCEEDED, finished_at=then, epoch=2, artifact=artifact)
    assert reason(done).sentence == "It finished 3 days ago, on attempt 2."
    assert "farm download" in reason(done).help
    error = JobError("poison", "3 workers failed on it.", "look at its attempts")
    failed = reason(replace(JOB, state=JobState.FAILED, finished_at=then, error=error))
    assert (failed.code, failed.sentence) == ("poison", "It failed: 3 workers failed on it.")
    assert failed.help == "look at its attempts"
    assert "farm retry" in reason(replace(JOB, state=JobState.CANCELLED, finished_at=then)).help


def test_weights_that_no_living_worker_has():
    other = replace(IDLE, models=("d9",), available={"wan": "d8"})
    said = reason(workers=(other,))
    assert (said.code, said.sentence) == ("weights_missing", "No living worker has demo-t2v.")
    assert "farm models pull demo-t2v" in said.help
    newer = replace(other, available={"demo-t2v": "d9"})
    assert "they have others" in reason(workers=(newer,)).sentence
    for able in (replace(other, models=("d1",)), replace(other, available={"demo-t2v": "d1"})):
        assert reason(workers=(able,)).code == "next"


def test_a_worker_without_its_weights_is_not_counted_on():
    other = replace(IDLE, id="w3", available={"wan": "d8"}, models=())
    holder = replace(BUSY, available={"demo-t2v": "d1"})
    assert reason(workers=(other, holder)).sentence == "It is the next of its lane, but the only worker is busy."
    draining = replace(holder, wish=Wish.DRAIN)
    assert reason(workers=(other, draining)).code == "weights_missing"


def test_a_store_that_is_away_is_said_where_it_matters():
    queued = reason(workers=(BUSY,), store=AWAY)
    assert (queued.code, queued.help) == ("store_away", "start it")
    assert queued.sentence == "The store at http://s3 does not answer: workers that finish wait with their videos."
    assert reason(workers=(BUSY, IDLE), store=AWAY).code == "next", "an idle worker begins all the same"
    assert reason(workers=(), store=AWAY).code == "no_worker"
    running = replace(JOB, state=JobState.RUNNING, progress=Progress(StageName.UPLOAD, 0, 0, None, "w1"))
    assert "finished and waits for the store. The store at http://s3 does" in reason(running, store=AWAY).sentence
    assert (
        reason(replace(running, progress=Progress(StageName.DENOISE, 1, 4, None, "w1")), store=AWAY).code
        == "running"
    )
