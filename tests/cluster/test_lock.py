"""What the farm's lock says of its holder: whole at every moment, and never a guess."""

import fcntl
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from farm.cluster import lock
from farm.cluster.lock import ChildStatus, FarmLock, FarmStatus, read_status
from farm.cluster.supervisor import down
from farm.domain.errors import FolderUnusable
from farm.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(home=tmp_path)
    settings.make_folders()
    return settings


def status(children: int) -> FarmStatus:
    started = tuple(ChildStatus(f"child {n}", n, n, 0) for n in range(children))
    return FarmStatus(True, True, os.getpid(), "http://127.0.0.1", datetime.now(UTC), started)


def test_a_reader_finds_the_holder_at_every_moment(settings: Settings):
    held = FarmLock(settings)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            for children in (0, 4):
                held.write(status(children))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {read_status(settings).pid for _ in range(2000)} == {os.getpid()}
    finally:
        done.set()
        writer.join()
        held.release()


def test_a_status_takes_no_more_of_the_disk_than_the_first(settings: Settings):
    """On a full disk there would be no more, and the farm is to live on."""
    held = FarmLock(settings)
    first = settings.lock_file.stat()
    for children in (4, 0):
        held.write(status(children))
        now = settings.lock_file.stat()
        assert (now.st_size, now.st_blocks) == (first.st_size, first.st_blocks)
    held.release()


def test_a_holder_that_has_not_said_who_it_is_is_not_signalled(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Its pid would be 0: to the system, that is the whole process group of the caller."""
    monkeypatch.setattr(lock, "_FIRST_NOTE", 0.0)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal was sent"))
    file = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(FolderUnusable, match="does not say by whom") as caught:
        down(settings)
    assert "fuser" in caught.value.next
    os.close(file)
