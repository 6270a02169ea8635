"""First frames in the store: `images/<sha256>.png` and a small picture beside it, shared by all who name them."""

import hashlib
import re
from contextlib import suppress

from farm.domain.errors import FarmError, ObjectNotFound
from farm.storage.store import Store

_HEAD = 24  # bytes of a PNG that hold its size
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ImageMissing(FarmError):
    """The database knows the image, the store does not have it, or not as it was."""

    code = "image_missing"
    status = 410


def image_key(digest: str) -> str:
    return f"images/{digest}.png"


def thumbnail_key(digest: str) -> str:
    return f"images/{digest}.jpg"


def keep(store: Store, png: bytes, thumbnail: bytes) -> str:
    """The digest under which it can be fetched. Keeping it again changes nothing."""
    digest = hashlib.sha256(png).hexdigest()
    store.put_bytes(thumbnail_key(digest), thumbnail)
    if store.size(image_key(digest)) != len(png):
        store.put_bytes(image_key(digest), png)
    return digest


def head(store: Store, digest: str) -> bytes | None:
    """Its first bytes; None if there is no such image."""
    if not _DIGEST.fullmatch(digest):
        return None
    try:
        return b"".join(store.open(image_key(digest), 0, _HEAD))
    except ObjectNotFound:
        return None


def reserve(store: Store, digest: str) -> bytes | None:
    """`head`, for whoever is about to refer to the image.

    As in `keep` the small picture is written anew, and before the look: a sweep that has found them old, and
    that no job names them, sees by this that somebody will.
    """
    if _DIGEST.fullmatch(digest):
        with suppress(ObjectNotFound):
            store.put_bytes(thumbnail_key(digest), b"".join(store.open(thumbnail_key(digest))))
    return head(store, digest)


def fetch(store: Store, digest: str) -> bytes:
    """The PNG, its checksum verified. Raises ImageMissing; StorageUnavailable while the store is away."""
    try:
        png = b"".join(store.open(image_key(digest)))
    except ObjectNotFound:
        raise ImageMissing(
            f"the image {digest[:12]} is no longer in the store", "upload it again and submit the job anew", "image"
        ) from None
    if hashlib.sha256(png).hexdigest() != digest:
        raise ImageMissing(
            f"the image {digest[:12]} was changed in the store", "upload it again and submit the job anew", "image"
        )
    return png
