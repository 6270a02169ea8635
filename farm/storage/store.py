"""Where videos live: one small interface, and the choice of what stands behind it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from farm.domain.address import shown
from farm.domain.errors import StorageUnavailable
from farm.storage.folder import FolderStore
from farm.storage.listing import Stored, Unfinished


class Store(Protocol):
    """Objects by key, `videos/<job>/<epoch>/...`. What `put` returned from is durable and whole.

    Every method may raise StorageUnavailable: the store is away, or refuses us.
    """

    name: str  # as people may see it

    def check(self) -> None:
        """Asks once, and soon gives up, whether the store is there for us."""
        ...

    def put(self, key: str, path: Path, sha256: str) -> None:
        """Store the file at `path`. Raises StorageUnavailable if its bytes do not have this checksum."""
        ...

    def put_bytes(self, key: str, data: bytes) -> None: ...

    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes [start, end) in chunks. Raises ObjectNotFound, before the first chunk."""
        ...

    def size(self, key: str) -> int | None:
        """In bytes; None if there is no such object."""
        ...

    def url(self, key: str, seconds: float, disposition: str | None = None) -> str | None:
        """An address where anyone may fetch it for `seconds`; None if only the farm itself can serve it.

        `disposition`: the Content-Disposition that the download is to have.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with `prefix`, in order."""
        ...

    def find(self, prefix: str) -> Iterator[Stored]:
        """The same with size and age."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """What is not there is deleted already."""
        ...

    def unfinished(self) -> Iterator[Unfinished]:
        """Uploads that have begun and have not become objects."""
        ...

    def give_up(self, uploads: Iterable[Unfinished]) -> None:
        """Frees the room that they take. One that has become an object meanwhile stays one."""
        ...


def open_store(where: str | Path) -> Store:
    """The store of a folder (path or file:// URL) or of an S3 bucket. Raises FolderUnusable, InvalidRequest.

    A folder is looked at now, a bucket only when it is used: it may be away for a while.
    """
    text = str(where)
    if text.startswith("s3://"):
        from farm.storage.s3 import S3Store  # here: its library takes a while to load

        return S3Store(text)
    if text.startswith("file://"):
        return FolderStore(Path(text.removeprefix("file://")))
    if "://" in text:
        raise StorageUnavailable(
            f"{shown(text)!r} is no store this farm can use", "give the path of a folder, or s3://bucket/prefix"
        )
    return FolderStore(Path(text).expanduser())
