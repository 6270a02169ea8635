"""`--wait` and `watch`: live stages, the exit code of how it ended, and Ctrl-C that leaves the job alone."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.cli.client import Client, StreamEvent
from farm.cli.watch import _stage, changes
from farm.db import jobs
from farm.domain.states import JobState
from tests.cli.command import Command
from tests.served.farm import Served
from tests.served.machine import Machine, until


@pytest.fixture
def waiting(farm: Command, served: Served) -> Iterator["subprocess.Popen[bytes]"]:
    """`farm submit --wait`, with its job in the queue."""
    process = farm.start("submit", "a kite", "--wait", "-o", "kite.mp4")
    until(lambda: jobs.counts(served.services.db)[JobState.QUEUED])
    yield process
    process.kill()
    process.communicate()


def test_wait_shows_the_stages_and_saves_the_video(
    waiting: "subprocess.Popen[bytes]", machine: Machine, tmp_path: Path
) -> None:
    machine.take()
    machine.step(5)
    assert waiting.stderr is not None
    seen = ""
    while "denoise" not in seen:  # told live: the job goes on only once it was seen
        line = waiting.stderr.readline().decode()
        assert line, seen
        seen += line
    made = machine.finish()
    out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, err
    assert out.decode().startswith("job_")
    assert "succeeded in 2.9 s" in err.decode()
    assert (tmp_path / "kite.mp4").stat().st_size == made.bytes


def test_a_failed_job_exits_1_with_its_error_and_saves_nothing(
    waiting: "subprocess.Popen[bytes]", machine: Machine, tmp_path: Path
) -> None:
    machine.take()
    machine.fail()
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 1
    assert "prompt_too_long" in err.decode()
    assert not (tmp_path / "kite.mp4").exists()


def test_a_cancelled_job_exits_3(waiting: "subprocess.Popen[bytes]", farm: Command, served: Served) -> None:
    (job,), _ = jobs.find(served.services.db)
    farm("cancel", job.id)
    waiting.communicate(timeout=30)
    assert waiting.returncode == 3


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back(
    waiting: "subprocess.Popen[bytes]", machine: Machine, served: Served
) -> None:
    claim = machine.take()
    assert waiting.stderr is not None
    while b"running" not in (line := waiting.stderr.readline()) and b"loading" not in line:
        assert line
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert f"farm watch {claim.job}" in err.decode()
    left = jobs.get(served.services.db, claim.job)
    assert (left.state, left.cancel_requested_at) == (JobState.RUNNING, None)


def test_watch_survives_a_restart_of_the_server(
    farm: Command, served: Served, machine: Machine, services: object
) -> None:
    farm("submit", "a kite")
    claim = machine.take()
    process = farm.start("watch", claim.job, "--json")
    assert process.stdout is not None
    assert process.stdout.readline()  # it listens
    served.stop()
    machine.finish()
    served.start()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b'"succeeded"' in out.splitlines()[-1]


def test_watching_a_finished_job_ends_at_once_with_its_exit_code(farm: Command, machine: Machine) -> None:
    job = farm("submit", "a kite").out.strip()
    machine.take()
    machine.finish()
    done = farm("watch", job)
    assert (done.code, done.out.strip()) == (0, job)


class Told(Client):
    """A farm that tells what a test wrote down."""

    def __init__(self, *said: StreamEvent) -> None:
        super().__init__("http://127.0.0.1:1")
        self.said = said

    def job(self, job_id: str) -> dict:
        return {"id": job_id, "state": "running", "epoch": 1, "progress": None}

    def events(self, after: str | None = None) -> Iterator[StreamEvent]:
        yield from self.said


def test_a_second_attempt_does_not_show_the_steps_of_the_first() -> None:
    def changed(state: str, epoch: int) -> StreamEvent:
        return StreamEvent("job", {"id": "j", "job": {"state": state, "epoch": epoch, "progress": None}}, "1")

    step = StreamEvent("progress", {"id": "j", "stage": "denoise", "k": 11, "n": 25}, None)
    farm = Told(step, changed("queued", 1), changed("running", 2), changed("cancelled", 2))
    shown = [_stage(job) for job in changes(farm, "j")]
    assert shown[:4] == ["starting", "denoise", "queued", "starting (attempt 2)"]
