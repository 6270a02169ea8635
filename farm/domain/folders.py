"""What an operating system's refusal to write in a folder means to a person."""

import errno
from pathlib import Path

from farm.domain.errors import DiskFull, FarmError, FolderUnusable, StorageUnavailable


def folder_error(error: OSError, folder: Path) -> FarmError:
    """`folder` is what the person chose, not the file below it that failed."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"the disk of {folder} is full", "free some space; nothing was left half-written")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return FolderUnusable(
            f"cannot write in {folder}: {error.strerror}",
            "make it writable for you, or choose another folder",
        )
    if error.errno == errno.ENOENT:
        return FolderUnusable(f"{folder} is not there", "make that folder, or choose another")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return FolderUnusable(f"{folder} is not a folder", "move that file away, or choose another folder")
    return StorageUnavailable(f"the folder {folder} reports an error: {error}", "check the disk")
