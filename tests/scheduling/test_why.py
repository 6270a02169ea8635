"""`farm why`: every state has one true sentence and, where people can help, how."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from farm.domain.job import Artifact, Dependency, Job, JobError, JobSpec, Progress, Requires
from farm.domain.states import After, JobState, StageName, Wish
from farm.domain.worker import Quarantine, Worker
from farm.scheduling.lanes import LaneView, Reason
from farm.scheduling.surroundings import Surroundings
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


def reason(job=JOB, position=0, lanes=(OPEN,), workers=(IDLE,), **known):
    return why(job, Surroundings(NOW, position, lanes, workers, **known))


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
    assert stopping.sentence == "It was asked to stop just now; w1 obeys at its next step (denoise, step 3 of 16)."


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
    assert reason(workers=(other, draining)).code == "workers_unwilling"


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


LATER = NOW + timedelta(minutes=10)
ASIDE = Quarantine("gpu-1", "n1", "2 different jobs met device faults", "faults", NOW, LATER, 1, 0, None, None)
RUNNING = replace(
    JOB, state=JobState.RUNNING, started_at=NOW, progress=Progress(StageName.DECODE, 0, 0, None, "w1")
)
OTHER = replace(BUSY, gpu="gpu-2")
ALL = [
    (
        "a job that must succeed first",
        {
            "job": replace(JOB, state=JobState.SCHEDULED),
            "depends_on": (Dependency("job_b", After.SUCCESS, JobState.RUNNING),),
        },
        "depends_on",
        "It waits for job_b to succeed, which is running.",
        "see: farm why job_b",
    ),
    (
        "jobs that must end, and a time",
        {
            "job": replace(JOB, state=JobState.SCHEDULED, not_before=LATER),
            "depends_on": (
                Dependency("job_a", After.ANY, JobState.FAILED),
                Dependency("job_b", After.ANY, JobState.QUEUED),
                Dependency("job_c", After.SUCCESS, JobState.QUEUED),
            ),
        },
        "depends_on",
        "It waits for job_b to end, which is queued, and for 1 more. It would not start before "
        "2026-11-03 12:10:00 UTC, 10 minutes from now, either.",
        "see: farm why job_b",
    ),
    (
        "all that it waited for has ended",
        {
            "job": replace(JOB, state=JobState.SCHEDULED),
            "depends_on": (Dependency("job_b", After.ANY, JobState.FAILED),),
        },
        "scheduled",
        "Its time has come; it joins the queue in a moment.",
        "",
    ),
    (
        "what it waited for failed",
        {
            "job": replace(
                JOB,
                state=JobState.CANCELLED,
                error=JobError(
                    "dependency_failed", "it waited for job_b, which failed", "retry job_b first, then this one"
                ),
            )
        },
        "dependency_failed",
        "It was cancelled: it waited for job_b, which failed.",
        "retry job_b first, then this one",
    ),
    (
        "a tag and a pool that nobody has, and who comes closest",
        {
            "job": replace(JOB, requires=Requires(("hdr", "fast"), "night")),
            "workers": (replace(IDLE, tags=("fast",)), replace(BUSY, tags=("hdr", "fast"))),
        },
        "requires",
        "No living worker has all that it requires; w2 on n1 comes closest and lacks pool night.",
        "start a worker with pool night, or submit it anew with fewer requirements",
    ),
    (
        "memory that nobody has said to have",
        {"job": replace(JOB, requires=Requires(memory=48 * 2**30))},
        "requires",
        "No living worker has all that it requires; w1 on n1 comes closest and lacks 48.0 GiB of memory.",
        None,
    ),
    (
        "too large for every card",
        {
            "job": replace(JOB, memory_plan=1, memory_above=24 * 2**30),
            "workers": (replace(IDLE, memory_total=24 * 2**30),),
        },
        "too_large",
        "It did not fit into 24.0 GiB even with the smallest memory plan, and the largest here has 24.0 GiB.",
        None,
    ),
    (
        "its lane's window is over",
        {"lanes": (replace(OPEN, closed_reason="its window is over", open_until=NOW - timedelta(hours=1)),)},
        "lane_closed",
        f"Its lane {LANE} was open until 2026-11-03 11:00:00 UTC and takes no more jobs.",
        None,
    ),
    (
        "its lane was closed by hand, before its window's end",
        {"lanes": (replace(OPEN, closed_reason="budget spent", open_until=LATER),)},
        "lane_closed",
        f"Its lane {LANE} is closed: budget spent.",
        "open the lane",
    ),
    (
        "the only worker is drained",
        {"workers": (replace(IDLE, wish=Wish.DRAIN, wish_by="ann", wish_reason="new driver"),)},
        "workers_unwilling",
        "The only worker that could render it is kept from taking jobs: w1 is set to drain (new driver).",
        "farm workers resume w1",
    ),
    (
        "its whole node is drained, the other GPU set aside",
        {
            "workers": (replace(IDLE, wish=Wish.DRAIN, wish_of_node=True, gpu="gpu-9"), replace(BUSY, gpu="gpu-1")),
            "quarantines": (replace(ASIDE, until=None),),
        },
        "workers_unwilling",
        "All 2 workers that could are kept from taking jobs: all of node n1 is set to drain; "
        "gpu-1 until somebody releases it (2 different jobs met device faults).",
        "farm workers resume --node n1; farm workers release gpu-1",
    ),
    (
        "the only GPU is in quarantine",
        {"quarantines": (ASIDE,)},
        "quarantined",
        "The only worker that could render it is on a GPU in quarantine: gpu-1 until 2026-11-03 12:10:00 UTC, "
        "then a probe decides (2 different jobs met device faults).",
        "farm workers release gpu-1",
    ),
    (
        "the only GPU is in quarantine, and its worker was ended",
        {"quarantines": (ASIDE,), "workers": ()},
        "quarantined",
        "No worker is running, and a GPU is in quarantine: gpu-1 until 2026-11-03 12:10:00 UTC, "
        "then a probe decides (2 different jobs met device faults).",
        "farm workers release gpu-1",
    ),
    (
        "its quarantine is over but for the probe",
        {"quarantines": (replace(ASIDE, until=NOW),)},
        "quarantined",
        "The only worker that could render it is on a GPU in quarantine: gpu-1 is about to be probed "
        "(2 different jobs met device faults).",
        "farm workers release gpu-1",
    ),
    (
        "the only worker is being restarted",
        {"workers": (replace(IDLE, wish=Wish.RESTART),)},
        "workers_unwilling",
        "The only worker that could render it is kept from taking jobs: w1 is set to restart.",
        "wait for its new process",
    ),
    (
        "a smaller memory plan",
        {"job": replace(JOB, memory_plan=1)},
        "next",
        "It is next: an idle worker takes it in a moment. It did not fit into a card's memory: its next "
        "attempt keeps less there.",
        "",
    ),
    (
        "a GPU on which it faulted is idle, the other busy",
        {"job": replace(JOB, avoid=("gpu-1",), failures=1), "workers": (IDLE, OTHER)},
        "gpu_avoided",
        "It met a device fault on gpu-1 and is not tried there again while others could do it; the only other "
        "worker is busy. 1 attempt of it failed before.",
        None,
    ),
    (
        "a GPU on which it faulted is all there is",
        {"job": replace(JOB, avoid=("gpu-1",))},
        "next",
        "It is next: an idle worker takes it in a moment.",
        "",
    ),
    (
        "lost again and again",
        {"job": replace(JOB, rest_until=NOW + timedelta(seconds=40))},
        "resting",
        "Its workers vanished again and again, so nobody gets it before 2026-11-03 12:00:40 UTC, "
        "40 seconds from now.",
        None,
    ),
    (
        "it has rested",
        {"job": replace(JOB, rest_until=NOW)},
        "next",
        "It is next: an idle worker takes it in a moment.",
        "",
    ),
    (
        "a hung stage",
        {"job": RUNNING, "hung": "no progress for 400 s in decode; 120 s are long enough"},
        "hung",
        "w1 hangs: no progress for 400 s in decode; 120 s are long enough. Its process is ended, and the job "
        "goes back into the queue.",
        None,
    ),
    (
        "cancelled while it hangs",
        {"job": replace(RUNNING, cancel_requested_at=NOW), "hung": "no progress for 400 s in decode"},
        "cancelling",
        "It was asked to stop just now; w1 obeys at its next step (decode).",
        "",
    ),
    (
        "its worker is silent",
        {"job": RUNNING, "workers": (replace(BUSY, id="w1", heartbeat_at=NOW - timedelta(seconds=31)),)},
        "worker_silent",
        "w1 has not answered for 31 seconds (decode); unless it does, the job goes back into the queue.",
        "look at node n1: farm workers",
    ),
    (
        "its worker is drained at once",
        {"job": RUNNING, "workers": (replace(BUSY, id="w1", wish=Wish.DRAIN, wish_now=True),)},
        "giving_back",
        "w1 was asked to drain now: it gives the job back at its next step, and another renders it.",
        "",
    ),
    (
        "its worker is drained once it has finished",
        {"job": RUNNING, "workers": (replace(BUSY, id="w1", wish=Wish.DRAIN),)},
        "running",
        "w1 has been rendering it for 0 seconds: decode.",
        "",
    ),
    (
        "a finished video that the store does not take",
        {"job": replace(RUNNING, progress=Progress(StageName.UPLOAD, 0, 0, None, "w1")), "store": AWAY},
        "store_away",
        "Its video is finished and waits for the store. The store at http://s3 does not answer.",
        "start it",
    ),
]


@pytest.mark.parametrize(
    ("kwargs", "code", "sentence", "help"), [row[1:] for row in ALL], ids=[row[0] for row in ALL]
)
def test_one_true_sentence_and_what_would_help(kwargs, code, sentence, help):
    said = reason(**kwargs)
    assert (said.code, said.sentence) == (code, sentence)
    assert said.help == help if help is not None else said.help
