"""One farm per folder: the lock that the supervisor holds for life, and what it notes of its processes."""

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from farm.cluster import processes
from farm.domain.errors import FolderInUse, FolderUnusable
from farm.settings import Settings

_BLOCK = 4096  # bytes, several times what the status of all children needs
_FIRST_NOTE = 2.0  # seconds between a farm's taking the lock and its note of who it is, at the very most


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
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        self.before = _read(settings.lock_file)  # what the last holder left, if it was killed
        self.write(FarmStatus(False, False, os.getpid(), settings.url, datetime.now(UTC)))

    def write(self, status: FarmStatus) -> None:
        """Always a block as long as the first one, which has its place on the disk even when that is full."""
        os.pwrite(self._file, json.dumps(asdict(status), default=str).encode().ljust(_BLOCK), 0)

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
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(file)


def read_status(settings: Settings) -> FarmStatus:
    """What the supervisor wrote last; `running` is asked of the lock itself. Raises FolderUnusable."""
    running = is_held(settings)
    if running:
        processes.wait_until(lambda: _read(settings.lock_file) is not None, _FIRST_NOTE)
    status = _read(settings.lock_file)
    if status is not None:
        return replace(status, running=running, ready=running and status.ready)
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


def _read(path: Path) -> FarmStatus | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fields: dict[str, Any] = json.loads(path.read_text())
        fields["children"] = tuple(ChildStatus(**child) for child in fields["children"])
        if fields["started_at"] is not None:
            fields["started_at"] = datetime.fromisoformat(fields["started_at"])
        return FarmStatus(**fields)
    return None
