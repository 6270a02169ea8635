"""A farm of several machines, each played by processes with a home and GPUs (on paper) of their own.

Only the server is told the farm's pipeline and its short leases: the nodes must hear of them from there.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.cluster import ray_node
from farm.cluster.lock import FarmStatus, read_status
from farm.cluster.processes import send, session_members, started
from farm.db import jobs
from farm.db.engine import open_database
from farm.domain.job import Attempt, Job
from farm.domain.states import JobState, Outcome
from farm.settings import Settings, load_settings
from tests.cluster.conftest import ROOT, Farm, until

GPUS = {"a": ["GPU-a1", "GPU-a2"], "b": ["GPU-b1", "GPU-b2"], "c": ["GPU-c1", "GPU-c2"]}


class Machine:
    """One `farm serve` or `farm worker` in a home of its own."""

    def __init__(self, settings: Settings, command: list[str], **environment: str) -> None:
        self.settings = settings
        self.command = [sys.executable, "-m", "farm.cli.main", *command]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FARM_", "CUDA_"))}
        self.environment = {**clean, "PYTHONPATH": str(ROOT), "FARM_HOME": str(settings.home), **environment}
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip

    def wait_said(self, start: str, lines: int = 1) -> str:
        """What it said when it was ready, and nothing before that."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(start), line + self.process.stdout.read()
        return line + "".join(self.process.stdout.readline() for _ in range(lines - 1))

    def status(self) -> FarmStatus:
        return read_status(self.settings)

    def processes(self) -> list[int]:
        leaders = [self.status().pid, *(child.pid for child in self.status().children)]
        return [pid for leader in leaders for pid in session_members(leader)]

    def kill(self) -> list[int]:
        """As when the power fails: everything at once."""
        everybody = self.processes()
        send(everybody, signal.SIGSTOP)  # or Ray's daemon would still report a worker that was killed before it
        send(everybody, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)
        until("all are dead", lambda: not any(started(pid) is not None for pid in everybody))
        return everybody

    def down(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "farm.cli.main", "down"], cwd=ROOT, env=self.environment, timeout=60,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "killed" not in done.stdout
        if self.process is not None:
            self.process.wait(10)


class Server(Machine):
    def __init__(self, home: Path) -> None:
        settings = load_settings(
            home=home, port=ray_node.free_port(), ray_port=ray_node.free_port(), lease_ttl=4.0, renew_every=1.0,
            beat_every=0.3, pipeline="tests.cluster.fake_model:Pipeline",
        )  # fmt: skip
        super().__init__(settings, ["serve"], **settings.environment())
        self.token = home / "farm-token"

    def node(self, name: str, *options: str, **environment: str) -> Machine:
        home = self.settings.home.parent / f"node-{name}"
        join = ["worker", "--join", f"127.0.0.1:{self.settings.ray_port}", "--token-file", str(self.token)]
        return Machine(
            load_settings(home=home), [*join, *options], FARM_DATABASE_URL=self.settings.database_url,
            FARM_STORE=self.settings.store, FARM_NVML="tests.cluster.fake_nvml",
            **{"FAKE_GPUS": ",".join(GPUS.get(name, ["GPU-x"])), **environment},
        )  # fmt: skip

    def farm(self) -> Farm:
        return Farm(self.settings, open_database(self.settings.database_url), self.environment)


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.server = Server(folder / "server")
        self.server.start()
        self.first_words = self.server.wait_said("Running on local URL: http://127.0.0.1:", lines=4)
        self.farm = self.server.farm()
        # Of node c only two of its three GPUs may be used, and not in their order.
        narrowed = {"FAKE_GPUS": "GPU-c2,GPU-other,GPU-c1", "CUDA_VISIBLE_DEVICES": "2,0"}
        self.nodes = {
            "a": self.server.node("a"), "b": self.server.node("b"), "c": self.server.node("c", **narrowed)
        }  # fmt: skip

    def join(self, name: str) -> None:
        self.nodes[name].start()
        self.nodes[name].wait_said("Joined the farm at 127.0.0.1:")

    def gpus(self) -> set[str]:
        return {worker.gpu for worker in self.farm.workers() if worker.state == "idle"}

    def wait_gpus(self, *names: str) -> None:
        wanted = {gpu for name in names for gpu in GPUS[name]}
        until(f"the workers of {names} are there and no others", lambda: self.gpus() == wanted, seconds=90)

    def submit(self, count: int, prompt: str) -> list[str]:
        return [self.farm.submit(prompt) for _ in range(count)]

    def finish(self, ids: list[str]) -> list[Job]:
        return [self.farm.wait_final(job) for job in ids]

    def slots_left(self) -> list[str]:
        return [event["slot"] for event in self.farm.events("dispatcher") if event["event"] == "slot_left"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server without slots, and three nodes of two GPUs. The tests below run in their order."""
    cluster = Cluster(tmp_path_factory.mktemp("nodes"))
    try:
        for node in cluster.nodes.values():
            node.start()
        for node in cluster.nodes.values():
            node.wait_said("Joined the farm at 127.0.0.1:")
        cluster.wait_gpus("a", "b", "c")
        yield cluster
    finally:
        for machine in (*cluster.nodes.values(), cluster.server):
            machine.down()
        cluster.farm.db.close()


def test_six_workers_of_three_nodes_share_thirty_jobs(cluster: Cluster, tmp_path: Path):
    ended = cluster.finish(cluster.submit(30, f"crowd={tmp_path}"))
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 30
    notes = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(notes) == {gpu for gpus in GPUS.values() for gpu in gpus}
    assert {(n["device"], n["torch"]) for n in notes.values()} == {("cuda", False)}
    pids = {worker.gpu: worker.pid for worker in cluster.farm.workers()}
    assert {gpu: note["pid"] for gpu, note in notes.items()} == pids
    assert len({worker.node for worker in cluster.farm.workers()}) == 3
    until("all are counted", lambda: sum(worker.jobs_done for worker in cluster.farm.workers()) == 30)
    assert {job.epoch for job in ended} == {1}


def test_nothing_of_a_node_listens_beyond_loopback(cluster: Cluster):
    ours = {link for node in cluster.nodes.values() for pid in node.processes() for link in _sockets(pid)}
    addresses = {
        fields[1].rpartition(":")[0]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and f"socket:[{fields[9]}]" in ours
    }
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_what_is_of_the_node_stays_on_the_node(cluster: Cluster):
    """Logs and sockets lie in its own home; the server's holds none of its workers'."""
    for name, node in cluster.nodes.items():
        assert {path.stem for path in node.settings.log_dir.glob("worker-*.log")} == {
            f"worker-{gpu}" for gpu in GPUS[name]
        }
        assert len(list(node.settings.socket_dir.glob("w*.sock"))) == 2
    assert not list(cluster.server.settings.log_dir.glob("worker-*.log"))


def test_a_node_with_a_wrong_token_is_refused(cluster: Cluster, tmp_path: Path):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    wrong.chmod(0o600)
    stranger = cluster.server.node("x", "--token-file", str(wrong))
    stranger.start()
    assert stranger.process is not None
    said, _ = stranger.process.communicate(timeout=60)
    assert stranger.process.returncode == 1
    assert "join_refused" in said
    assert f"does not accept the token in {wrong}" in said
    assert cluster.server.token.read_text() not in said
    assert not stranger.status().running
    assert "GPU-x" not in cluster.gpus()


def test_a_node_that_dies_in_mid_work_costs_attempts_and_no_job(cluster: Cluster, tmp_path: Path):
    gate = tmp_path / "gate"
    ids = cluster.submit(30, f"gate={gate}")
    lost = {w.id: w.gpu for w in cluster.farm.workers() if w.gpu in GPUS["b"]}

    def in_hand() -> list[Job]:
        found = [cluster.farm.job(job) for job in ids]
        return [job for job in found if job.state is JobState.RUNNING and job.progress and job.progress.k == 2]

    until("all six render", lambda: len(in_hand()) == 6)
    hit = {job.id for job in in_hand() if job.progress is not None and job.progress.worker in lost}
    assert len(hit) == 2
    cluster.nodes["b"].kill()
    until("their jobs are taken back", lambda: all(_first(cluster.farm, job).outcome for job in hit))
    gate.touch()
    ended = cluster.finish(ids)
    assert [job.state for job in ended] == [JobState.SUCCEEDED] * 30
    assert {job.id for job in ended if job.epoch > 1} == hit
    assert not any(job.failures for job in ended), "a node that dies is no job's fault"
    for job in hit:
        first, second = sorted(jobs.attempts(cluster.farm.db, job), key=lambda attempt: attempt.epoch)
        assert (first.outcome, second.outcome) == (Outcome.LOST, Outcome.SUCCEEDED)
        assert second.worker not in lost
    cluster.wait_gpus("a", "c")
    until("its slots are forgotten", lambda: {"gpu:GPU-b1", "gpu:GPU-b2"} <= set(cluster.slots_left()))


def test_a_node_that_joins_late_takes_jobs(cluster: Cluster, tmp_path: Path):
    """None of these jobs goes on before six workers have one, and four are there."""
    ids = cluster.submit(12, f"crowd={tmp_path}")
    until("four wait for two more", lambda: len(list(tmp_path.iterdir())) == 4)
    cluster.join("b")
    assert [job.state for job in cluster.finish(ids)] == [JobState.SUCCEEDED] * 12
    cluster.wait_gpus("a", "b", "c")


def test_a_node_that_freezes_and_thaws_changes_nothing(cluster: Cluster, tmp_path: Path):
    """Raylet, agent and workers at once: no farewell. Thawed, it learns that it was given up, and rejoins."""
    gate = tmp_path / "gate"
    cluster.wait_gpus("a", "b", "c")
    before = {w.id: w.gpu for w in cluster.farm.workers()}
    ids = cluster.submit(6, f"gate={gate}")
    for job in ids:
        cluster.farm.wait_step(job)
    hit = {job for job in ids if before[_first(cluster.farm, job).worker] in GPUS["b"]}
    assert len(hit) == 2
    send(cluster.nodes["b"].processes(), signal.SIGSTOP)
    until("their jobs are taken back", lambda: all(_first(cluster.farm, job).outcome for job in hit))
    gate.touch()
    ended = cluster.finish(ids)
    assert {(job.state, job.failures) for job in ended} == {(JobState.SUCCEEDED, 0)}
    assert {job.id for job in ended if job.epoch == 2} == hit
    send(cluster.nodes["b"].processes(), signal.SIGCONT)
    until("its old workers are gone", lambda: not _alive(cluster.farm, before, "b"))
    cluster.wait_gpus("a", "b", "c")
    assert [cluster.farm.job(job.id) for job in ended] == ended
    assert {w.id for w in cluster.farm.workers()} >= {w for w, gpu in before.items() if gpu not in GPUS["b"]}


def test_a_node_that_is_stopped_gives_its_jobs_back_without_blame(cluster: Cluster, tmp_path: Path):
    gate = tmp_path / "gate"
    cluster.wait_gpus("a", "b", "c")
    ids = cluster.submit(6, f"gate={gate}")
    for job in ids:
        cluster.farm.wait_step(job)
    before = {w.id for w in cluster.farm.workers()}
    pids = cluster.nodes["c"].processes()
    cluster.nodes["c"].down()
    assert not any(started(pid) is not None for pid in pids)
    gate.touch()
    ended = cluster.finish(ids)
    assert {(job.state, job.failures) for job in ended} == {(JobState.SUCCEEDED, 0)}
    first = [_first(cluster.farm, job).outcome for job in ids]
    assert sorted(first) == sorted([Outcome.SUCCEEDED] * 4 + [Outcome.DRAIN] * 2)
    until("its slots are gone", lambda: {"gpu:GPU-c1", "gpu:GPU-c2"} <= set(cluster.slots_left()))
    cluster.wait_gpus("a", "b")
    # Nobody was employed there while it left.
    assert {w.id for w in cluster.farm.workers()} < before


def test_the_server_says_how_to_join_and_not_its_secret(cluster: Cluster):
    said = cluster.first_words
    assert f"farm worker --join 127.0.0.1:{cluster.server.settings.ray_port} " in said
    assert str(cluster.server.token) in said
    assert cluster.server.token.read_text() not in said
    assert cluster.server.token.stat().st_mode & 0o777 == 0o600


def _first(farm: Farm, job: str) -> Attempt:
    return min(jobs.attempts(farm.db, job), key=lambda attempt: attempt.epoch)


def _alive(farm: Farm, known: dict[str, str], node: str) -> set[str]:
    return {w.id for w in farm.workers() if known.get(w.id) in GPUS[node]}


def _sockets(pid: int) -> list[str]:
    found: list[str] = []
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            found.append(os.readlink(descriptor))
    except OSError:
        pass
    return found
