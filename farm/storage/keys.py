"""What may be a key, in every store: relative, plain, and never the name of something half-written."""

from farm.domain.errors import InvalidRequest

PART = ".part-"  # begins the name of a file still being written


def beside(video: str, still: str) -> str:
    """Where the poster, the thumbnail or the strip of the video under the key `video` lies."""
    return f"{video.rpartition('/')[0]}/{still}.jpg"


def check_key(key: str) -> str:
    """`key` itself. Raises InvalidRequest where it could lead elsewhere."""
    bad = any(part in {"", ".", ".."} or part.startswith(PART) or "\\" in part for part in key.split("/"))
    if bad or "\0" in key:
        raise InvalidRequest(f"{key!r} is not a key of this store", field="key")
    return key
