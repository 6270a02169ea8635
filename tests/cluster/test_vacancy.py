"""A device is used again only when its last worker is gone from it: process, children, memory."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.cluster import admission, beats, processes, vacancy
from farm.cluster.admission import NotAdmitted
from farm.cluster.slots import Slot
from farm.cluster.vacancy import MARK, DeviceNotFree
from farm.db import quarantines, workers
from farm.db.engine import migrate, open_database
from farm.domain.worker import NewWorker
from farm.ops.logging import Log, start_log
from farm.settings import Settings, load_settings

GPU = Slot("gpu:GPU-a")
GIB = 1 << 30


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    monkeypatch.setenv("FARM_NVML", "tests.cluster.fake_nvml")
    monkeypatch.setenv("FAKE_GPUS", "GPU-a")
    monkeypatch.setenv("FAKE_GPU_USE", str(tmp_path / "use"))
    monkeypatch.setenv(MARK, "")  # put back afterwards
    return settings


@pytest.fixture
def log(settings: Settings) -> Log:
    return start_log("worker", settings.log_dir)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """Of the last worker, and out of its process group."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "last"},
        start_new_session=True,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def use(settings: Settings, used: int, **processes: int) -> None:
    """What the driver says: bytes in use, and processes by pid."""
    found = {"GPU-a": {"used": used, "processes": {pid.removeprefix("_"): held for pid, held in processes.items()}}}
    (settings.home / "use").write_text(json.dumps(found))


def enter(settings: Settings, worker: str, log: Log, patience: float = 10.0) -> None:
    vacancy.enter(GPU, settings, worker, log, patience)


def said(settings: Settings) -> list[str]:
    log = settings.log_dir / "worker.log"
    return [json.loads(line)["event"] for line in log.read_text().splitlines()] if log.exists() else []


def test_what_the_last_worker_had_started_is_ended(
    settings: Settings, log: Log, sleeper: "subprocess.Popen[bytes]"
):
    enter(settings, "last", log)
    socket = beats.reply_socket(settings, "last")
    socket.touch()
    enter(settings, "next", log)
    assert not socket.exists()
    assert sleeper.wait(10) == -signal.SIGKILL
    assert processes.started(os.getpid()) is not None, "and nobody else was"
    assert said(settings) == ["leftovers_killed"]


def test_the_first_worker_takes_the_device_as_it_is(settings: Settings, log: Log):
    use(settings, 3 * GIB)
    enter(settings, "first", log, patience=0.0)
    assert said(settings) == []


def test_memory_that_nobody_holds_any_more_keeps_the_next_worker_out(settings: Settings, log: Log):
    use(settings, 1 * GIB)
    enter(settings, "last", log)
    use(settings, 41 * GIB)
    with pytest.raises(DeviceNotFree, match=r"40\.0 GiB of Paper GPU are held by no process that lives"):
        enter(settings, "next", log, patience=0.0)
    # It stays out: the one after it finds the same.
    with pytest.raises(DeviceNotFree):
        enter(settings, "one more", log, patience=0.0)
    use(settings, 1 * GIB + 1000)
    enter(settings, "the last of all", log, patience=0.0)


def test_the_next_worker_waits_until_it_is_free(settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch):
    enter(settings, "last", log)
    use(settings, 40 * GIB)
    monkeypatch.setattr(vacancy.time, "sleep", lambda _: use(settings, 0))  # the driver frees it meanwhile
    enter(settings, "next", log)
    assert said(settings) == ["waits_for_memory"]


def test_a_restart_of_the_machine_has_freed_everything(
    settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
):
    enter(settings, "last", log)
    use(settings, 40 * GIB)
    monkeypatch.setattr(processes, "boot", lambda: "another one")
    enter(settings, "next", log, patience=0.0)
    assert said(settings) == []


def test_what_a_stranger_holds_is_no_obstacle(settings: Settings, log: Log):
    enter(settings, "last", log)
    use(settings, 40 * GIB, **{f"_{os.getppid()}": 40 * GIB})
    enter(settings, "next", log, patience=0.0)
    assert said(settings) == ["device_shared"]


def test_a_device_that_is_not_free_stays_as_a_person_has_set_it_aside(
    settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
):
    def stuck(*_: object) -> None:
        raise DeviceNotFree("it is held", "restart the machine")

    monkeypatch.setattr(vacancy, "enter", stuck)
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    workers.register(db, NewWorker("w1", "n1", GPU.gpu, "Paper GPU", 4711))
    try:
        for by in ("its worker", "ann"):
            with pytest.raises(NotAdmitted):
                admission.take(GPU, settings, "w1", db, log)
            (aside,) = quarantines.find(db)
            assert (aside.by, aside.until is None) == (by, by == "ann")
            quarantines.put(db, GPU.gpu, "it smells", "ann")
    finally:
        db.close()


def test_a_card_that_the_driver_has_lost_is_set_aside_and_says_why(settings: Settings, log: Log):
    """Its worker would only die of it, again and again, and nobody would know."""
    (settings.home / "use").write_text('{"GPU-a": {"lost": 15}}')
    migrate(settings.database_url)
    db = open_database(settings.database_url)
    workers.register(db, NewWorker("w1", "n1", GPU.gpu, "Paper GPU", 4711))
    try:
        with pytest.raises(NotAdmitted, match="its device is lost"):
            admission.take(GPU, settings, "w1", db, log)
        (aside,) = quarantines.find(db)
        assert "the driver has lost the card: GPU is lost" in aside.reason
        assert "reset the card, or restart the machine" in aside.reason
        assert aside.until is not None, "it is probed again after a while"
        assert said(settings) == ["device_lost"]
    finally:
        db.close()
