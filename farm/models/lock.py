"""One process at a time changes a model library: pulls, imports and removals take this lock."""

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path

from farm.domain.folders import folder_error
from farm.models.errors import LibraryBusy

INCOMING = ".incoming"


@contextlib.contextmanager
def library_lock(folder: Path, doing: str) -> Generator[Path]:
    """Held while the block runs; gives the folder for unfinished things. Raises LibraryBusy naming who has it."""
    incoming = folder / INCOMING
    try:
        incoming.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(incoming / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise folder_error(error, folder) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise LibraryBusy(
                f"{holder} is changing the model library {folder}", "wait until it is done, then try again"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"farm models {doing} (pid {os.getpid()})".encode(), 0)
        yield incoming
    finally:
        os.close(descriptor)  # and with it the lock; the file stays: another may be waiting on it
        _tidy(incoming)


def _tidy(incoming: Path) -> None:
    for folder in incoming.iterdir():
        if folder.is_dir():
            with contextlib.suppress(OSError):  # it holds unfinished files
                folder.rmdir()
