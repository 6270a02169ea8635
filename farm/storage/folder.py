"""A store in a local folder. A key is a path below its root, and nothing above it can be reached."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from farm.domain.errors import InvalidRequest, ObjectNotFound, StorageUnavailable
from farm.domain.folders import folder_error
from farm.storage.keys import PART, check_key
from farm.storage.listing import Stored, Unfinished

CHUNK = 256 * 1024
_TRIES = 5  # to make a folder that others find empty and remove


class FolderStore:
    """Raises FolderUnusable at once if `root` cannot be made or written."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.name = str(self.root)
        with self._meaning():
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, prefix=PART):
                pass

    def put(self, key: str, path: Path, sha256: str) -> None:
        def copy(target: BinaryIO) -> None:
            seen = hashlib.sha256()
            # Hashed while copied: what was checked is what was written.
            while chunk := source.read(CHUNK):
                seen.update(chunk)
                target.write(chunk)
            if seen.hexdigest() != sha256:
                raise StorageUnavailable(
                    f"{path} changed on its way into the store: its checksum is not {sha256}", "try again"
                )

        with path.open("rb") as source:
            self._write(key, copy)

    def put_bytes(self, key: str, data: bytes) -> None:
        self._write(key, lambda target: target.write(data))

    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        path = self._path(key)
        with self._meaning():
            try:
                # Opened now and not at the first chunk, so that a caller may still answer "not found".
                file = path.open("rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise ObjectNotFound(f"there is no {key!r} in the store") from None
        return _chunks(file, start, end)

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with self._meaning():
            return path.stat().st_size if path.is_file() else None

    def check(self) -> None:
        with self._meaning():
            os.listdir(self.root)  # a disk that was taken away, or went bad

    def url(self, key: str, seconds: float, disposition: str | None = None) -> str | None:
        return None  # a folder has no address; the API serves it

    def list(self, prefix: str) -> Iterator[str]:
        # Only the deepest folder that the prefix names is walked, not the whole store.
        folder = self._path(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        keys = (path.relative_to(self.root).as_posix() for path in folder.rglob("*") if _is_object(path))
        with self._meaning():
            yield from sorted(key for key in keys if key.startswith(prefix))

    def find(self, prefix: str) -> Iterator[Stored]:
        for key in self.list(prefix):
            with self._meaning(), suppress(FileNotFoundError):  # gone since it was listed
                is_now = (self.root / key).stat()
                yield Stored(key, is_now.st_size, _time(is_now.st_mtime))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with self._meaning():
                path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def unfinished(self) -> Iterator[Unfinished]:
        with self._meaning():
            for path in sorted(self.root.rglob(f"{PART}*")):
                with suppress(FileNotFoundError):
                    is_now = path.stat()
                    # By its last byte, not its first: it is written in one go.
                    name = path.relative_to(self.root).as_posix()
                    yield Unfinished(name, is_now.st_size, _time(is_now.st_mtime))

    def give_up(self, uploads: Iterable[Unfinished]) -> None:
        for upload in uploads:
            with self._meaning():
                (self.root / upload.name).unlink(missing_ok=True)
            self._remove_empty((self.root / upload.name).parent)

    def _path(self, key: str) -> Path:
        path = self.root.joinpath(*check_key(key).split("/"))
        # A link planted below the root must not lead out of it either.
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InvalidRequest(f"{key!r} leads out of the store", field="key")
        return path

    def _remove_empty(self, folder: Path) -> None:
        with suppress(OSError):  # not empty: somebody else's objects are in it
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        """All or nothing, also when the power fails: a file of that name is always a whole one."""
        path = self._path(key)
        with self._meaning():
            descriptor, name = self._begin(path.parent)
            try:
                with os.fdopen(descriptor, "wb") as target:
                    fill(target)
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(name, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(name)
                raise
            _sync(path.parent)

    def _begin(self, folder: Path) -> tuple[int, str]:
        """A new file in `folder`, as the target will be: renaming is atomic only within one file system."""
        for left in reversed(range(_TRIES)):
            try:
                self._make_folder(folder)
                return tempfile.mkstemp(dir=folder, prefix=PART)
            except FileNotFoundError:  # the collector has just removed it, empty as it was
                if not left or not self.root.is_dir():
                    raise
        raise AssertionError("the last try returns or raises")

    def _make_folder(self, folder: Path) -> None:
        """Like mkdir -p, durably: a new folder's name is in its parent."""
        missing = [f for f in (folder, *folder.parents) if f.is_relative_to(self.root) and not f.exists()]
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            _sync(new.parent)

    @contextmanager
    def _meaning(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise folder_error(error, self.root) from error


def _is_object(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(PART)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _chunks(file: BinaryIO, start: int, end: int | None) -> Iterator[bytes]:
    with file:
        file.seek(start)
        left = None if end is None else max(0, end - start)
        while left is None or left > 0:
            chunk = file.read(CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk


def _sync(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder, and writes names through
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
