"""One farm per folder: the lock that the supervisor holds for life, and what it notes of its processes.

The note stands in the lock file itself, in two places that are written in turn: whoever reads while one of them
is being written finds the other whole.
"""

import contextlib
import fcntl
import json
import os
import time
import zlib
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from farm.cluster import processes
from farm.domain.errors import FolderInUse, FolderUnusable
from farm.settings import Settings

_BLOCK = 4096  # bytes, several times what the status of all children needs
_PLACES = 2
_FIRST_NOTE = 2.0  # seconds between a farm's taking the lock and its note of who it is, at the very most
_PASSING = 1.0  # seconds in which those who only look at the lock have surely let go of it


@dataclass(frozen=True)
class ChildStatus:
    """`pid` also names the session that the child opened; `started` tells it from a later process."""

    name: str
    pid: int
    started: int
    restarts: int


@dataclass(frozen=True)
class FarmStatus:
    """What `farm status` shows of the processes. `pid` is the supervisor's."""

    running: bool
    ready: bool
    pid: int
    url: str
    started_at: datetime | None
    children: tuple[ChildStatus, ...] = ()


class FarmLock:
    """Held through an open file: the system releases it however the process ends."""

    def __init__(self, settings: Settings) -> None:
        """Raises FolderInUse naming the holder, or FolderUnusable."""
        self._settings = settings
        self._file = _open(settings.lock_file)
        try:
            _take(self._file)
        except BlockingIOError:
            os.close(self._file)
            raise FolderInUse(
                f"a farm is already running on {settings.home} (pid {read_status(settings).pid})",
                "use it, stop it with `farm down`, or give another folder with --home",
            ) from None
        except OSError as error:
            os.close(self._file)
            raise FolderUnusable(
                f"{settings.home} cannot be locked: {error.strerror}", "use a local disk"
            ) from error
        last = _last_note(settings.lock_file)
        self.before = None if last is None else last.status  # what the last holder left, if it was killed
        self._number = 0 if last is None else last.number
        if os.fstat(self._file).st_size < _PLACES * _BLOCK:  # every later note is to find its place on the disk
            os.pwrite(self._file, bytes(_PLACES * _BLOCK), 0)
        self.write(FarmStatus(False, False, os.getpid(), settings.url, datetime.now(UTC)))

    def write(self, status: FarmStatus) -> None:
        """Over the older of the two notes; in a place that the file has already, also when the disk is full."""
        self._number += 1
        said = f"{self._number} {json.dumps(asdict(status), default=str)}".encode()
        os.pwrite(self._file, (b"%d %s" % (zlib.crc32(said), said)).ljust(_BLOCK), self._number % _PLACES * _BLOCK)

    def release(self) -> None:
        """Nothing is left to be cleaned up after us."""
        os.ftruncate(self._file, 0)
        os.close(self._file)


def is_held(settings: Settings) -> bool:
    """Whether a supervisor lives on this folder."""
    try:
        file = os.open(settings.lock_file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who look do not take each other for the holder
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(file)


def read_status(settings: Settings) -> FarmStatus:
    """What the supervisor wrote last; `running` is asked of the lock itself. Raises FolderUnusable."""
    deadline = time.monotonic() + _FIRST_NOTE
    while True:
        running, last = is_held(settings), _last_note(settings.lock_file)
        if last is not None:
            return replace(last.status, running=running, ready=running and last.status.ready)
        if not running or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    if running:  # no pid may be guessed here: whoever stops a farm sends signals to it
        raise FolderUnusable(
            f"{settings.lock_file} is locked and does not say by whom",
            f"find the process with: fuser {settings.lock_file}",
        )
    return FarmStatus(False, False, 0, settings.url, None)


def end_leftovers(children: tuple[ChildStatus, ...]) -> list[str]:
    """Ends what a supervisor that was killed has left behind; only what is surely ours. Their names."""
    ended: list[str] = []
    for child in children:
        now = processes.started(child.pid)
        if now is not None and now != child.started:
            continue  # the number belongs to another process today
        if processes.session_members(child.pid):
            processes.end_session(child.pid, patience=5.0)
            ended.append(child.name)
    return ended


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FolderUnusable(
            f"{path} cannot be written: {error.strerror}", "choose a writable folder with --home"
        ) from error


def _take(file: int) -> None:
    """Raises BlockingIOError where another farm holds it: those who look (`is_held`) hold it only in passing."""
    deadline = time.monotonic() + _PASSING
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


@dataclass(frozen=True)
class _Note:
    number: int
    status: FarmStatus


def _last_note(path: Path) -> _Note | None:
    """The newest that is whole."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    found = (_parse(data[place * _BLOCK : (place + 1) * _BLOCK]) for place in range(_PLACES))
    return max((note for note in found if note is not None), key=lambda note: note.number, default=None)


def _parse(data: bytes) -> _Note | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        check, _, said = data.rstrip().partition(b" ")
        if zlib.crc32(said) != int(check):
            return None  # half of one note and half of another may well read like a third
        number, _, status = said.partition(b" ")
        fields: dict[str, Any] = json.loads(status)
        fields["children"] = tuple(ChildStatus(**child) for child in fields["children"])
        if fields["started_at"] is not None:
            fields["started_at"] = datetime.fromisoformat(fields["started_at"])
        return _Note(int(number), FarmStatus(**fields))
    return None
