"""A store in a local folder. A key is a path below its root, and nothing above it can be reached."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from farm.domain.errors import InvalidRequest, ObjectNotFound, StorageUnavailable
from farm.domain.folders import folder_error
from farm.storage.keys import PART, check_key

CHUNK = 256 * 1024


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

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with self._meaning():
                path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty: somebody else's objects are in it
                for folder in path.parents:
                    if folder == self.root:
                        break
                    folder.rmdir()

    def _path(self, key: str) -> Path:
        path = self.root.joinpath(*check_key(key).split("/"))
        # A link planted below the root must not lead out of it either.
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise InvalidRequest(f"{key!r} leads out of the store", field="key")
        return path

    def _write(self, key: str, fill: Callable[[BinaryIO], object]) -> None:
        """All or nothing, also when the power fails: a file of that name is always a whole one."""
        path = self._path(key)
        with self._meaning():
            self._make_folder(path.parent)
            # In the same folder: renaming is atomic only within one file system.
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=PART)
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
