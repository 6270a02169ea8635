"""Frees what nobody can see any more: losers' files, old previews, hidden videos, unnamed images, broken uploads.

Nothing is deleted but what the database, asked after the store was listed, knows to be dead; an object that it
does not know is left alone. Only listed keys are deleted, never a prefix: what new claims write is safe.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Protocol

from farm.domain.errors import ObjectNotFound
from farm.domain.remains import Claim, Death
from farm.storage.images import image_key, thumbnail_key
from farm.storage.listing import Stored
from farm.storage.store import Store

_AT_ONCE = 500  # claims or images of one question to the database
_IN_HAND = 64 * 2**20  # bytes of images that are held until it is certain that nobody wants them
_OURS = ("videos/", "images/")
_OF_CLAIM = re.compile(r"videos/([^/]+)/([0-9]{1,9})/[^/]+")
_PREVIEW = re.compile(r".*/preview-[0-9]+\.jpg")
_OF_IMAGE = re.compile(r"images/([0-9a-f]{64})\.(?:png|jpg)")


class Register(Protocol):
    """What the database knows, at the moment of the question."""

    def dead(self, claims: Collection[Claim]) -> Mapping[Claim, Death | None]:
        """None: it lives. A claim that is not answered is one that the database has never seen."""
        ...

    def unnamed(self, digests: Collection[str]) -> set[str]:
        """Those images that no job refers to."""
        ...


@dataclass
class Heap:
    """Objects of one kind. `examples` are the first few keys."""

    objects: int = 0
    bytes: int = 0
    examples: list[str] = field(default_factory=list[str])

    def add(self, key: str, size: int) -> None:
        self.objects += 1
        self.bytes += size
        if len(self.examples) < 3:
            self.examples.append(key)


@dataclass(frozen=True)
class Swept:
    """What was freed (or would be), and what was left because no job of it is known."""

    freed: Mapping[str, Heap]
    unknown: Heap

    @property
    def objects(self) -> int:
        return sum(heap.objects for heap in self.freed.values())

    @property
    def bytes(self) -> int:
        return sum(heap.bytes for heap in self.freed.values())


def sweep(store: Store, register: Register, now: datetime, spare: float, dry_run: bool = False) -> Swept:
    """`spare`: seconds; nothing younger is touched. Raises FarmError while store or database are away."""
    before = now - timedelta(seconds=spare)
    freed = {kind: Heap() for kind in (*Death, "images", "unfinished")}
    unknown = Heap()
    for objects in _by_claims(found for found in store.find("videos/") if found.modified < before):
        verdicts = register.dead(list(objects))
        gone: list[str] = []
        for claim, files in objects.items():
            for file in files:
                heap = _heap(file, claim, verdicts, freed, unknown)
                if heap is not None:
                    heap.add(file.key, file.bytes)
                if heap is not None and heap is not unknown:
                    gone.append(file.key)
        if not dry_run:
            store.delete(gone)
    # With videos that this database does not know the store is another's too, or older than a restored backup:
    # whether those jobs name an image nobody here can tell.
    if not unknown.objects:
        _sweep_images(store, register, before, freed["images"], dry_run)
    # In a bucket or a folder that others use too, theirs are none of our business.
    broken = [u for u in store.unfinished() if u.begun < before and u.name.startswith(_OURS)]
    for upload in broken:
        freed["unfinished"].add(upload.name, upload.bytes)
    if not dry_run:
        store.give_up(broken)
    return Swept(freed, unknown)


def _heap(
    file: Stored,
    claim: Claim,
    verdicts: Mapping[Claim, Death | None],
    freed: Mapping[str, Heap],
    unknown: Heap,
) -> Heap | None:
    """Where it is counted; None: it stays."""
    if claim not in verdicts:
        return unknown
    death = verdicts[claim]
    if death is None or (death is Death.PREVIEWS and not _PREVIEW.fullmatch(file.key)):
        return None
    return freed[death]


def _by_claims(found: Iterable[Stored]) -> Iterator[dict[Claim, list[Stored]]]:
    """Objects below `videos/`, some hundred claims at a time. What has another shape is not ours."""
    chunk: dict[Claim, list[Stored]] = {}
    for file in found:
        if match := _OF_CLAIM.fullmatch(file.key):
            claim = match[1], int(match[2])
            if claim not in chunk and len(chunk) == _AT_ONCE:
                yield chunk
                chunk = {}
            chunk.setdefault(claim, []).append(file)
    if chunk:
        yield chunk


def _sweep_images(store: Store, register: Register, before: datetime, heap: Heap, dry_run: bool) -> None:
    pictures = [(match[1], file) for file in store.find("images/") if (match := _OF_IMAGE.fullmatch(file.key))]
    old: dict[str, list[Stored]] = {}
    for digest, pair in groupby(pictures, key=lambda picture: picture[0]):
        files = [file for _, file in pair]
        # Keeping an image once more writes its small picture anew: the younger of the two says when.
        if all(file.modified < before for file in files):
            old[digest] = files
    for digests in _handfuls(old):
        gone = register.unnamed(digests) if dry_run else _remove_images(store, register, digests, before)
        for digest in sorted(gone):
            for file in old[digest]:
                heap.add(file.key, file.bytes)


def _handfuls(images: Mapping[str, list[Stored]]) -> Iterator[list[str]]:
    """So many at a time that one question to the database serves many, and that they fit into memory."""
    handful: list[str] = []
    size = 0
    for digest, files in sorted(images.items()):
        more = sum(file.bytes for file in files)
        if handful and (len(handful) == _AT_ONCE or size + more > _IN_HAND):
            yield handful
            handful, size = [], 0
        handful.append(digest)
        size += more
    if handful:
        yield handful


def _remove_images(store: Store, register: Register, digests: Collection[str], before: datetime) -> set[str]:
    """Those that are gone. The others somebody has asked for again, and they are as they were."""
    doomed = _unwanted(store, register, digests, before)
    taken = {
        key: data
        for digest in doomed
        for key in (image_key(digest), thumbnail_key(digest))
        if (data := _read(store, key)) is not None
    }
    doomed = _unwanted(store, register, doomed, before)  # reading them takes its time
    gone: set[str] = set()
    try:
        store.delete([image_key(digest) for digest in sorted(doomed)])
        # Whoever keeps one first writes the small picture, then looks for the image. Before the image was gone
        # they may have found it, and then this second look tells.
        gone = _unwanted(store, register, doomed, before)
    finally:  # also where the second look found nobody to ask
        for digest in doomed - gone:
            _put_back(store, image_key(digest), taken)
    store.delete([thumbnail_key(digest) for digest in sorted(gone)])
    anew = {digest for digest in gone if store.size(image_key(digest)) is not None}  # kept between our deletions
    for digest in anew:
        _put_back(store, thumbnail_key(digest), taken)
    return gone - anew


def _unwanted(store: Store, register: Register, digests: Collection[str], before: datetime) -> set[str]:
    """No job names them, and nobody is about to: their small pictures are old."""
    return {
        digest
        for digest in (register.unnamed(digests) if digests else ())
        if not any(file.modified >= before for file in store.find(thumbnail_key(digest)))
    }


def _put_back(store: Store, key: str, taken: Mapping[str, bytes]) -> None:
    if key in taken:
        store.put_bytes(key, taken[key])


def _read(store: Store, key: str) -> bytes | None:
    with suppress(ObjectNotFound):
        return b"".join(store.open(key))
    return None
