"""What the farm's lock says of its holder: whole at every moment, and never a guess."""

import fcntl
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from farm.cluster import lock
from farm.cluster.lock import ChildStatus, FarmLock, FarmStatus, is_held, read_status
from farm.cluster.supervisor import down
from farm.domain.errors import FolderInUse, FolderUnusable
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


@pytest.mark.parametrize("written", [0, 1, 5, 12, 40, 70])
def test_a_note_that_is_half_written_is_not_read(settings: Settings, monkeypatch: pytest.MonkeyPatch, written: int):
    """Also where the two halves of an old and a new one would read well: whoever stops a farm signals its pid."""
    held = FarmLock(settings)
    whole = [replace(status(2), pid=pid) for pid in (1111, 2222, 3333, 4444)]
    put = os.pwrite
    seen: list[int] = []

    def in_two(file: int, data: bytes, at: int) -> int:
        put(file, data[:written], at)
        seen.append(read_status(settings).pid)
        return put(file, data[written:], at + written)

    for note in whole[:2]:
        held.write(note)
    monkeypatch.setattr(os, "pwrite", in_two)
    for note in whole[2:]:
        held.write(note)
    assert seen == [2222, 3333]
    assert read_status(settings) == whole[3]
    held.release()


def test_what_is_left_of_a_killed_farm_is_followed_by_the_notes_of_the_next(settings: Settings):
    for _ in range(3):
        killed = FarmLock(settings)
        killed.write(status(2))
        os.close(killed._file)
        after = FarmLock(settings)
        assert after.before is not None
        assert [child.name for child in after.before.children] == ["child 0", "child 1"]
        after.write(status(1))
        assert len(read_status(settings).children) == 1
        os.close(after._file)


def test_whoever_looks_at_the_lock_is_not_taken_for_a_farm(settings: Settings):
    """A `farm status` at the moment of a `farm up`, or two of them at once."""
    looking = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_held(settings)
    looked = threading.Timer(0.1, os.close, (looking,))
    looked.start()
    held = FarmLock(settings)
    looked.join()
    with pytest.raises(FolderInUse, match=f"pid {os.getpid()}"):
        FarmLock(settings)
    held.release()


def test_a_farm_that_ends_while_it_is_looked_at_is_one_that_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    held = FarmLock(settings)
    look = lock.is_held

    def ends(settings: Settings) -> bool:
        running = look(settings)
        if running:
            held.release()
        return running

    monkeypatch.setattr(lock, "is_held", ends)
    assert not read_status(settings).running


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
