"""A machine broken in one way at a time, and what the doctor says of it. No network, no GPU."""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from farm.cluster.lock import ChildStatus, FarmStatus
from farm.db.engine import migrate
from farm.domain.errors import DatabaseUnavailable, StorageUnavailable
from farm.gpus import Driver, Gpu, GpuProcess
from farm.ops import doctor
from farm.ops.checks import gpu, machine, models, running, services, toolchain
from farm.ops.checks.child import Said, ask
from farm.ops.checks.finding import Finding, Verdict, failed
from farm.settings import load_settings
from farm.storage.folder import FolderStore
from farm.storage.store import Store
from model.library import Library
from tests.cli.command import Command
from tests.cluster import fake_nvml

GIB = 1 << 30
H100 = Gpu(0, "GPU-1", "NVIDIA H100", 80 * GIB, GIB // 2)
GOOD = Driver("580.65.06", gpus=(H100,))
NONE = Driver(None, "NVML Shared Library Not Found")
CUDA_12 = Said({"version": "2.9.0+cu128", "cuda": "12.8", "available": True, "devices": ["NVIDIA H100"]})
CUDA_13 = Said({"version": "2.11.0+cu130", "cuda": "13.0", "available": True, "devices": ["NVIDIA H100"]})
CPU = Said({"version": "2.13.0+cpu", "cuda": None, "available": False, "devices": []})
BLIND = Said({"version": "2.11.0+cu130", "cuda": "13.0", "available": False, "devices": []})
TOOLS = toolchain.Toolchain("2.36", "/usr/bin/cc", "/usr/include/python3.11/Python.h", None, "2.60.0")
ROOMY = machine.Disk(Path("/farm"), 500 * GIB, 900 * GIB, 10**6, True)
PORT = machine.Port("127.0.0.1", 7860, False, None, False)


def said(finding: Finding, verdict: Verdict, *words: str) -> None:
    assert finding.verdict is verdict, finding
    assert all(word in f"{finding.sentence} | {finding.next}" for word in words), finding
    assert bool(finding.next) == (verdict is not Verdict.OK), "what to do, where something is to be done"
    assert "\n" not in finding.sentence


@pytest.mark.parametrize(
    ("driver", "devices", "torch", "verdict", "words"),
    [
        (NONE, False, CPU, Verdict.OK, ["no NVIDIA GPU: this machine renders on CPU"]),
        (NONE, True, CPU, Verdict.FAILED, ["driver does not answer", "NVML Shared Library", "nvidia-smi"]),
        (Driver("580.65.06"), True, CUDA_13, Verdict.WARNING, ["580.65.06", "no GPU"]),
        (GOOD, True, CUDA_13, Verdict.OK, ["580.65.06", "1 x NVIDIA H100"]),
        (replace(GOOD, version="535.104.05"), True, CUDA_12, Verdict.OK, ["535.104.05"]),
        (replace(GOOD, version="535.54.03"), True, CUDA_12, Verdict.FAILED, ["535.104.05", "install driver"]),
        (replace(GOOD, version="575.57.08"), True, CUDA_13, Verdict.FAILED, ["CUDA 13.0", "580"]),
        (replace(GOOD, version="575.57.08"), True, CUDA_12, Verdict.OK, ["575.57.08"]),
    ],
)
def test_driver(driver: Driver, devices: bool, torch: Said, verdict: Verdict, words: list[str]) -> None:
    said(gpu.check_driver(driver, devices, torch), verdict, *words)


@pytest.mark.parametrize(
    ("torch", "gpus", "verdict", "words"),
    [
        (CPU, 0, Verdict.OK, ["2.13.0+cpu"]),
        (CUDA_13, 1, Verdict.OK, ["CUDA 13.0", "H100"]),
        (CPU, 1, Verdict.FAILED, ["CPU build", "CUDA build"]),
        (BLIND, 1, Verdict.FAILED, ["finds no GPU", "CUDA_VISIBLE_DEVICES"]),
        (Said(None, "No module named 'torch'"), 0, Verdict.FAILED, ["No module named 'torch'", "pip install"]),
    ],
)
def test_torch(torch: Said, gpus: int, verdict: Verdict, words: list[str]) -> None:
    said(gpu.check_torch(torch, gpus), verdict, *words)


def test_a_stranger_on_a_card_is_named_and_the_farms_own_workers_are_not() -> None:
    game = GpuProcess("GPU-1", 77, "blender", 9 * GIB)
    worker = GpuProcess("GPU-1", 88, "ray::GpuWorker", 40 * GIB)
    full = replace(H100, memory_used=50 * GIB)
    (found,) = gpu.check_memory(Driver("580.1", gpus=(full,), processes=(game, worker)), ours={88})
    said(found, Verdict.WARNING, "50.0 GiB of 80.0 GiB", "pid 77 (blender, 9.0 GiB)")
    assert "88" not in found.sentence
    (found,) = gpu.check_memory(Driver("580.1", gpus=(full,), processes=(worker,)), ours={88})
    said(found, Verdict.OK, "50.0 GiB")
    (found,) = gpu.check_memory(Driver("580.1", gpus=(full,)), ours=set())
    said(found, Verdict.WARNING, "by nobody that can be seen", "nvidia-smi")
    (found,) = gpu.check_memory(GOOD, ours=set())
    said(found, Verdict.OK)


def test_what_nvml_says_of_processes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from farm import gpus

    monkeypatch.setenv("FARM_NVML", "tests.cluster.fake_nvml")
    monkeypatch.setenv("FAKE_GPUS", "GPU-1,GPU-2")
    mine = SimpleNamespace(pid=77, usedGpuMemory=None)  # as inside a virtual machine: the figure is not told
    monkeypatch.setattr(
        fake_nvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: [mine] if handle else [], raising=False
    )
    monkeypatch.setattr(fake_nvml, "nvmlSystemGetDriverVersion", lambda: b"580.65.06", raising=False)

    def unknown(pid: int) -> str:
        raise fake_nvml.NVMLError(6)

    monkeypatch.setattr(fake_nvml, "nvmlSystemGetProcessName", unknown, raising=False)
    driver = gpus.driver()
    assert driver.version == "580.65.06"
    assert driver.processes == (GpuProcess("GPU-2", 77, "unknown", None),)


@pytest.mark.parametrize(
    ("change", "gpus", "check", "verdict", "words"),
    [
        ({}, 1, "compiler", Verdict.OK, ["/usr/bin/cc"]),
        ({"compiler": None}, 1, "compiler", Verdict.FAILED, ["no C compiler", "apt-get install gcc"]),
        ({"compiler": None}, 0, "compiler", Verdict.WARNING, ["no C compiler", "once there is a GPU"]),
        ({"python_h": None}, 1, "headers", Verdict.FAILED, ["Python.h is missing", "-dev"]),
        ({"python_h": None}, 0, "headers", Verdict.WARNING, ["Python.h is missing"]),
        ({"glibc": "2.17"}, 0, "glibc", Verdict.FAILED, ["2.17", "2.28"]),
        ({"glibc": "2.28"}, 0, "glibc", Verdict.OK, ["2.28"]),
        ({"glibc": None}, 0, "glibc", Verdict.FAILED, ["not glibc"]),
        ({"foreign_kernels": "0.9"}, 0, "packages", Verdict.FAILED, ["0.9", "pip uninstall kernels"]),
        ({"ray": "2.54.0"}, 0, "ray", Verdict.FAILED, ["2.54.0", "2.60"]),
        ({"ray": None}, 0, "ray", Verdict.FAILED, ["not installed"]),
    ],
)
def test_toolchain(change: dict[str, Any], gpus: int, check: str, verdict: Verdict, words: list[str]) -> None:
    found = {finding.check: finding for finding in toolchain.check_toolchain(replace(TOOLS, **change), gpus)}
    said(found[check], verdict, *words)
    others = {name for name, finding in found.items() if finding.verdict is not Verdict.OK}
    assert others <= {check}


SELFTEST = """
from types import SimpleNamespace
def run(device=None):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "gpus", "verdict", "words"),
    [
        ("return SimpleNamespace(ok=True, sentence='fast and right', next='')", 1, Verdict.OK, ["fast and right"]),
        ("return SimpleNamespace(ok=False, sentence='wrong', next='x')", 1, Verdict.FAILED, ["wrong", "x"]),
        ("import os; os.kill(os.getpid(), 11)", 1, Verdict.FAILED, ["ended by signal 11"]),
        ("raise RuntimeError('no PTX for you')", 1, Verdict.FAILED, ["RuntimeError: no PTX for you"]),
        ("raise RuntimeError('no PTX for you')", 0, Verdict.WARNING, ["no PTX for you"]),
    ],
)
def test_the_kernels_are_tried_where_a_crash_hurts_nobody(
    tmp_path: Path, body: str, gpus: int, verdict: Verdict, words: list[str]
) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    (tmp_path / "kernels" / "selftest.py").write_text(SELFTEST.format(body=body))
    answer = ask(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{gpu.ASK_KERNELS}", 60)
    said(gpu.check_kernels(answer, gpus), verdict, *words)


def test_a_child_that_hangs_is_given_up() -> None:
    assert "did not answer within 0 s" in ask("import time; time.sleep(600)", 0.3).fault


@pytest.mark.parametrize(
    ("disk", "verdict", "words"),
    [
        (ROOMY, Verdict.OK, ["500.0 GiB"]),
        (replace(ROOMY, free=5 * GIB), Verdict.WARNING, ["5.0 GiB", "free some space"]),
        (replace(ROOMY, free=1 << 20), Verdict.FAILED, ["1 MiB", "free some space"]),
        (replace(ROOMY, inodes=3), Verdict.FAILED, ["3 files"]),
        (replace(ROOMY, inodes=None), Verdict.OK, []),
        (replace(ROOMY, writable=False), Verdict.FAILED, ["/farm cannot be written"]),
    ],
)
def test_disk(disk: machine.Disk, verdict: Verdict, words: list[str]) -> None:
    said(machine.check_disk(disk), verdict, *words)


@pytest.mark.parametrize(
    ("port", "verdict", "words"),
    [
        (PORT, Verdict.OK, ["is free"]),
        (replace(PORT, taken=True, owner="pid 9 (nginx)"), Verdict.FAILED, ["in use by pid 9 (nginx)", "--port"]),
        (replace(PORT, taken=True), Verdict.FAILED, ["WSL"]),
        (replace(PORT, taken=True, ours=True), Verdict.OK, ["this farm's"]),
        (replace(PORT, ours=True), Verdict.FAILED, ["nobody listens", "api.out"]),
    ],
)
def test_port(port: machine.Port, verdict: Verdict, words: list[str]) -> None:
    said(machine.check_port(port), verdict, *words)


def test_the_owner_of_a_port_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = machine.read_port("127.0.0.1", taken.getsockname()[1], ours=False)
    assert port.taken
    assert port.owner is not None
    assert port.owner.startswith(f"pid {os.getpid()} ")


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [
        ((20 * GIB, 64 * GIB), Verdict.OK), ((2 * GIB, 64 * GIB), Verdict.WARNING),
        ((GIB // 2, 64 * GIB), Verdict.FAILED), (None, Verdict.OK),
    ],
)  # fmt: skip
def test_ram(memory: tuple[int, int] | None, verdict: Verdict) -> None:
    said(machine.check_memory(memory), verdict)


def test_a_containers_limit_is_what_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  67108864 kB\nMemAvailable:  50331648 kB\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path) == (48 * GIB, 64 * GIB)
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{6 * GIB}\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path) == (2 * GIB, 8 * GIB)
    assert machine.read_memory(tmp_path / "nothing", tmp_path) is None


@pytest.mark.parametrize(("limit", "verdict"), [(1024, Verdict.WARNING), (65536, Verdict.OK), (-1, Verdict.OK)])
def test_open_files(limit: int, verdict: Verdict) -> None:
    said(machine.check_open_files(limit), verdict)


def test_models(tmp_path: Path) -> None:
    sizes, faults = models.read_models(Library(tmp_path / "none"))
    assert sizes["demo-t2v"] > 1 << 20
    assert not faults
    (found,) = models.check_models({"demo-t2v": 11 << 20}, [], "demo-t2v")
    said(found, Verdict.OK, "demo-t2v, 11 MiB")
    there, missing = models.check_models({"demo-t2v": 11 << 20}, [], "wan2.1-t2v-14b")
    said(there, Verdict.OK)
    said(missing, Verdict.FAILED, "wan2.1-t2v-14b", "demo-t2v")


def test_a_damaged_part_of_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "wan2.1-vae").mkdir()
    (tmp_path / "wan2.1-vae" / "manifest.json").write_text("{")
    found = models.check_models(*models.read_models(Library(tmp_path)), "demo-t2v")
    said(found[-1], Verdict.WARNING, "wan2.1-vae/manifest.json", "not a manifest")


def test_a_database_is_reached_and_its_clock_compared(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/farm.db"
    migrate(url)
    reached, clock = services.check_database(services.read_database(url))
    said(reached, Verdict.OK, url)
    said(clock, Verdict.OK)
    for late, word in ((30, "behind"), (-30, "ahead of")):
        facts = services.read_database(url, lambda late=late: datetime.now(UTC) + timedelta(seconds=late))
        said(services.check_database(facts)[1], Verdict.WARNING, word, "30.0 s", "chrony")


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    (found,) = services.check_database(services.read_database(f"sqlite:///{tmp_path}/farm.db"))
    said(found, Verdict.OK, "not there yet")
    assert not list(tmp_path.iterdir())


def test_a_database_of_another_version_or_out_of_reach_is_said(tmp_path: Path) -> None:
    (tmp_path / "farm.db").touch()
    (found,) = services.check_database(services.read_database(f"sqlite:///{tmp_path}/farm.db"))
    said(found, Verdict.FAILED, "schema", "farm migrate")
    away = services.DatabaseFacts("postgresql://x", error=DatabaseUnavailable("nobody answers", "start it"))
    (found,) = services.check_database(away)
    said(found, Verdict.FAILED, "nobody answers", "start it")


class Forgetful(FolderStore):
    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        return iter([b"something else"])


class ReadOnly(FolderStore):
    def put_bytes(self, key: str, data: bytes) -> None:
        raise StorageUnavailable("AccessDenied", "give the key the right to write")


class Hoarder(FolderStore):
    def delete(self, keys: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "verdict", "words"),
    [
        (FolderStore, Verdict.OK, ["writes, reads and deletes"]),
        (Forgetful, Verdict.FAILED, ["other bytes"]),
        (ReadOnly, Verdict.FAILED, ["AccessDenied", "right to write"]),
        (Hoarder, Verdict.WARNING, ["does not delete"]),
    ],
)
def test_store(tmp_path: Path, kind: type[FolderStore], verdict: Verdict, words: list[str]) -> None:
    def opened(where: str | Path) -> Store:
        return kind(tmp_path)

    said(services.check_store(str(tmp_path), opened), verdict, *words)
    if kind is not Hoarder:
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    said(services.check_store(str(tmp_path / "store")), Verdict.OK, "not there yet")
    assert not list(tmp_path.iterdir())


NODE = running.Node("10.0.0.5", True, ("gpu:GPU-1", "gpu:GPU-2"))


@pytest.mark.parametrize(
    ("nodes", "fault", "verdict", "words"),
    [
        ([NODE, running.Node("10.0.0.4", True, ())], "", Verdict.OK, ["2 alive with 2 render slots"]),
        ([NODE, running.Node("10.0.0.6", False, ())], "", Verdict.OK, ["1 alive", "left", "10.0.0.6"]),
        ([running.Node("10.0.0.4", True, ())], "", Verdict.WARNING, ["0 render slots", "farm worker"]),
        ([], "it did not answer within 20 s", Verdict.FAILED, ["did not answer", "ray.out"]),
    ],
)
def test_nodes(nodes: list[running.Node], fault: str, verdict: Verdict, words: list[str]) -> None:
    said(running.check_nodes(nodes, fault, {"GPU-1", "GPU-2"}), verdict, *words)


def test_a_slot_whose_worker_is_in_another_database_is_noticed() -> None:
    found = running.check_nodes([NODE], "", {"GPU-1"})
    said(found, Verdict.WARNING, "gpu:GPU-2", "FARM_DATABASE_URL")
    assert "gpu:GPU-1" not in found.sentence


def test_a_farm_that_restarts_its_children_over_and_over_is_noticed() -> None:
    calm = FarmStatus(True, True, 5, "http://127.0.0.1:7860", None, (ChildStatus("ray", 6, 1, 0),))
    said(running.check_processes(calm, "/farm"), Verdict.OK, "pid 5", "ray")
    restless = replace(calm, children=(ChildStatus("api", 6, 1, 9),))
    said(running.check_processes(restless, "/farm"), Verdict.WARNING, "api 9 times", "/farm/logs")
    said(running.check_processes(replace(calm, ready=False), "/farm"), Verdict.WARNING, "not ready")
    said(running.check_processes(replace(calm, running=False), "/farm"), Verdict.OK, "none is running")


def test_a_check_that_breaks_is_a_finding_and_no_password_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Finding:
        raise RuntimeError("cannot reach postgresql://farm:geheim@db/farm")

    monkeypatch.setattr(doctor, "checks", lambda settings: [("database", broken)])
    (shown,) = doctor.examine(load_settings(home=tmp_path))
    assert shown.verdict is Verdict.FAILED
    assert "geheim" not in shown.sentence
    assert "postgresql://farm:***@db/farm" in shown.sentence


def test_every_verdict_says_what_to_do_and_failures_alone_make_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from farm.cli import doctor as command

    wrong = failed("disk", "full", "free some space")
    for findings, code in (([replace(wrong, verdict=Verdict.WARNING)], 0), ([wrong], 1)):
        monkeypatch.setattr(doctor, "examine", lambda settings, found=findings: iter(found))
        with pytest.raises(SystemExit) as ended:
            command.doctor.main(["--home", str(tmp_path)])
        assert ended.value.code == code
        assert "free some space" in capsys.readouterr().out


def test_a_machine_without_a_gpu_is_well(tmp_path: Path) -> None:
    """The whole doctor, for real, on a home that does not exist: nothing is made there."""
    home = tmp_path / "farm"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    farm = Command("", tmp_path, {"FARM_PORT": port, "CUDA_VISIBLE_DEVICES": ""})
    done = farm("doctor", "--home", str(home), "--json")
    assert done.code == 0, done.out + done.err
    assert done.json["ok"]
    found = {check["check"]: check for check in done.json["checks"]}
    assert {
        "driver",
        "torch",
        "compiler",
        "headers",
        "kernels",
        "database",
        "store",
        "port",
        "disk",
        "model",
    } <= set(found)
    assert not home.exists()
    assert json.dumps(done.json)
