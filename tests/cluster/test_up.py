"""`farm up` and `farm down` as people meet them: one farm per folder, everything heals, nothing remains."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.cluster import processes, ray_node
from farm.cluster.lock import FarmStatus
from farm.cluster.processes import session_members, started
from farm.cluster.supervisor import down, status, up
from farm.db import jobs
from farm.db.engine import open_database
from farm.domain.errors import FolderInUse, FolderUnusable, PortInUse, UnknownModel
from farm.domain.states import JobState, Outcome
from farm.settings import Settings, load_settings
from tests.cluster.conftest import ROOT, Farm, until


class Up:
    """A running `farm up`, in a process of its own."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.settings = load_settings(
            home=home, port=ray_node.free_port(), pipeline="tests.cluster.fake_model:Pipeline", lease_ttl=4.0,
            renew_every=1.0, beat_every=0.3, **options,
        )  # fmt: skip
        self.environment = {**os.environ, **self.settings.environment(), "PYTHONPATH": str(ROOT)}
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.up_with_fake_api"], cwd=ROOT, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def wait_ready(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # until it says so, or ends
        if not line and self.process.stderr is not None:
            pytest.fail(self.process.stderr.read())
        return line.strip()

    def status(self) -> FarmStatus:
        return status(self.settings)

    def farm(self) -> Farm:
        return Farm(self.settings, open_database(self.settings.database_url), self.environment)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    farm = Up(tmp_path_factory.mktemp("up"))
    farm.start()
    try:
        assert farm.wait_ready() == f"Running on local URL: http://127.0.0.1:{farm.settings.port}"
        yield farm
    finally:
        down(farm.settings)
        assert farm.process is not None
        farm.process.wait(30)


def _pid(farm: Up, name: str) -> int:
    return next((c.pid for c in farm.status().children if c.name == name), 0)


def _of_ray(farm: Up, name: str) -> int:
    return next(pid for pid in session_members(_pid(farm, "ray")) if processes.name(pid) == name)


def _ready(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(settings.host, settings.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_ready_is_said_when_it_is_true_and_not_before(running: Up):
    assert _ready(running.settings)
    found = running.status()
    assert found.ready
    assert running.process is not None
    assert found.pid == running.process.pid
    assert [c.name for c in found.children] == ["ray", "api", "agent", "dispatcher"]
    log = (running.settings.log_dir / "supervisor.log").read_text()
    assert f"Running on local URL: {running.settings.url}" in log


def test_a_second_farm_on_the_folder_is_refused_with_the_first_ones_pid(running: Up):
    with pytest.raises(FolderInUse, match=str(running.status().pid)):
        up(running.settings)
    assert _ready(running.settings)


def test_a_port_in_use_names_its_owner(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUse, match=f"pid {os.getpid()} ") as caught:
            up(load_settings(home=tmp_path / "other", port=taken.getsockname()[1]))
    assert "--port" in caught.value.next
    assert not list((tmp_path / "other").glob("farm.db*"))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnusable):
        up(load_settings(home=tmp_path / "file" / "home", port=ray_node.free_port()))


def test_a_store_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path):
    (tmp_path / "file").touch()
    settings = load_settings(home=tmp_path / "home", port=ray_node.free_port(), store=str(tmp_path / "file"))
    with pytest.raises(FolderUnusable, match=f"{tmp_path}/file is not a folder"):
        up(settings, children=lambda _: pytest.fail("children were made"))
    assert not status(settings).running


@pytest.mark.parametrize("model", ["demo-t3v", "wan2.1-t2v-14b"])
def test_a_model_without_weights_here_is_refused(tmp_path: Path, model: str):
    with pytest.raises(UnknownModel, match=model) as caught:
        up(load_settings(home=tmp_path / "home", port=ray_node.free_port(), model=model))
    assert "demo-t2v" in caught.value.next
    assert not (tmp_path / "home").exists()


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderUnusable, match="No space left"):
        up(load_settings(home=tmp_path, port=ray_node.free_port()))
    assert not list(tmp_path.rglob("probe*"))


def test_nothing_listens_beyond_loopback(running: Up):
    inodes = {link for c in running.status().children for pid in session_members(c.pid) for link in _sockets(pid)}
    listening = [
        fields[1].rpartition(":")[0]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and f"socket:[{fields[9]}]" in inodes
    ]
    assert len(listening) >= 4
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.parametrize("name", ["agent", "api", "dispatcher", "ray"])
def test_a_killed_child_comes_back_and_the_farm_works_on(running: Up, name: str):
    farm = running.farm()
    before = _pid(running, name)
    os.kill(before, signal.SIGKILL)
    until(f"{name} is started anew", lambda: _pid(running, name) not in (0, before))
    job = farm.wait_final(farm.submit(f"after the death of {name}"))
    assert job.state is JobState.SUCCEEDED
    until("it is ready again", lambda: _ready(running.settings))
    assert not session_members(before)
    farm.db.close()


def test_when_the_gcs_dies_the_job_in_hand_goes_on(running: Up, tmp_path: Path):
    """Ray's central process is started again beside its node, and the workers are the same as before."""
    farm = running.farm()
    (before,) = farm.wait_idle(1)
    gate = tmp_path / "gate"
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    os.kill(_of_ray(running, "gcs_server"), signal.SIGKILL)
    until("it is started again", lambda: "the GCS died" in (running.settings.log_dir / "ray.out").read_text())
    gate.touch()
    assert farm.wait_final(job).epoch == 1
    # What it knew is known again: the worker is found under its name, and gets the next job.
    assert farm.wait_final(farm.submit("after the death of the GCS")).state is JobState.SUCCEEDED
    assert [worker.id for worker in farm.wait_idle(1)] == [before.id]
    farm.db.close()


@pytest.mark.parametrize("name", ["ray", "raylet"])
def test_when_ray_dies_the_job_in_hand_begins_anew_at_once(running: Up, tmp_path: Path, name: str):
    farm = running.farm()
    gate = tmp_path / "gate"
    job = farm.submit(f"gate={gate}")
    farm.wait_step(job)
    os.kill(_pid(running, "ray") if name == "ray" else _of_ray(running, name), signal.SIGKILL)
    until("the job is claimed again", lambda: farm.job(job).epoch == 2)
    gate.touch()
    assert farm.wait_final(job).state is JobState.SUCCEEDED
    first = min(jobs.attempts(farm.db, job), key=lambda attempt: attempt.epoch)
    assert first.outcome is Outcome.LOST
    assert "died" in (first.cause or "")  # told, not found out by waiting for the lease to run out
    farm.db.close()


def test_down_leaves_no_process_and_blames_no_job(tmp_path: Path):
    up_ = Up(tmp_path)
    up_.start()
    up_.wait_ready()
    farm = up_.farm()
    job = farm.submit(f"gate={tmp_path / 'never'}")
    farm.wait_step(job)
    sessions = [c.pid for c in up_.status().children]
    everybody = [pid for leader in sessions for pid in session_members(leader)]
    assert len(everybody) > 7  # Ray's own and the worker among them
    said = down(up_.settings)
    assert said.was_running
    assert not said.killed
    assert [pid for pid in everybody if started(pid) is not None] == []
    waiting = farm.job(job)
    assert (waiting.state, waiting.failures) == (JobState.QUEUED, 0)
    assert not farm.workers()
    assert not up_.status().running
    assert not down(up_.settings).was_running
    assert not list(up_.settings.socket_dir.glob("*.sock"))
    if not up_.settings.socket_dir.is_relative_to(tmp_path):  # a long home: its sockets lay in the temp dir
        assert not up_.settings.socket_dir.exists()
    farm.db.close()


def test_a_killed_supervisor_is_no_obstacle(tmp_path: Path):
    first = Up(tmp_path)
    first.start()
    first.wait_ready()
    assert first.process is not None
    left = [(c.name, c.pid) for c in first.status().children]
    # An agent that cannot react stands for whatever does not die with the supervisor.
    os.kill(dict(left)["agent"], signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    first.start()
    first.wait_ready()
    try:
        assert [name for name, pid in left if session_members(pid)] == []
        farm = first.farm()
        assert farm.wait_final(farm.submit("after it")).state is JobState.SUCCEEDED
        farm.db.close()
    finally:
        down(first.settings)


def test_a_child_that_cannot_start_ends_the_farm_with_its_reason(tmp_path: Path):
    broken = Up(tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", _BROKEN], cwd=ROOT, env=broken.environment, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert process.returncode != 0
    assert "the reason why" in process.stderr
    assert not broken.status().running


_BROKEN = """
import sys
from farm.cluster.children import ChildSpec
from farm.cluster.supervisor import up
from farm.settings import load_settings
command = [sys.executable, "-c", "raise SystemExit('the reason why')"]
up(load_settings(), children=lambda settings: [ChildSpec("api", command, 1.0)])
"""


def _sockets(pid: int) -> list[str]:
    found: list[str] = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(descriptor))
        except OSError:
            continue
    return found
