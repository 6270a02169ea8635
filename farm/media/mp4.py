"""What an MP4 says about itself: tracks, length, tags. Plain Python, for clients that have no decoder.

Only the boxes in front of and behind the pictures are read (ISO/IEC 14496-12), so that the first part of a file
written for streaming is enough. Every length in it is somebody else's word and is checked against its box.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from farm.domain.errors import InvalidRequest

MAX_MOOV = 16 * 2**20  # an hour at 60 frames a second has 2 MB
_MAX_BOXES = 4096
_UTF8 = 1
# Tags that every player knows, as QuickTime calls them.
_KNOWN = {
    b"\xa9nam": "title", b"\xa9cmt": "comment", b"\xa9too": "encoder", b"\xa9ART": "artist",
    b"\xa9day": "date", b"desc": "description",
}  # fmt: skip


class NotAnMp4(InvalidRequest):
    """It has none of the boxes that an MP4 must have, or they contradict each other."""

    code = "invalid_video"


@dataclass(frozen=True)
class Track:
    """kind: video, audio, or another handler's four letters. Sizes in pixels, 0 where it has no picture."""

    kind: str
    codec: str
    frames: int
    seconds: float
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Mp4:
    """missing: bytes that the boxes promise and the file does not have."""

    seconds: float
    tracks: tuple[Track, ...]
    tags: Mapping[str, str]
    faststart: bool
    missing: int

    @property
    def video(self) -> Track | None:
        return next((track for track in self.tracks if track.kind == "video"), None)

    @property
    def has_sound(self) -> bool:
        return any(track.kind == "audio" for track in self.tracks)


@dataclass
class _Movie:
    seconds: float = 0.0
    tracks: list[Track] = field(default_factory=list[Track])
    tags: dict[str, str] = field(default_factory=dict[str, str])


def read_tags(path: Path) -> dict[str, str]:
    """The tags alone. Raises NotAnMp4; OSError where the file cannot be read."""
    with path.open("rb") as file:
        return dict(read_mp4(file).tags)


def read_mp4(file: BinaryIO) -> Mp4:
    """file: seekable, from its first byte; it may end early. Raises NotAnMp4."""
    length = file.seek(0, 2)
    at, moov, pictures_at, missing, seen = 0, b"", None, 0, 0
    moov_at: int | None = None
    while at + 8 <= length and seen < _MAX_BOXES:
        seen += 1
        file.seek(at)
        head = file.read(16)
        kind, size, start = head[4:8], int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, start = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = length - at
        if size < start or (at == 0 and kind != b"ftyp"):
            raise NotAnMp4("this is not an MP4 file", "give a video that this farm has made")
        if kind == b"moov" and moov_at is None:
            if size > MAX_MOOV:
                raise NotAnMp4("the header of this file is larger than any video's", "give another file")
            file.seek(at + start)
            moov_at, moov = at, file.read(size - start)
            if len(moov) < size - start:
                raise NotAnMp4("the file ends within its header: it is cut short", "copy it again, whole")
        if kind == b"mdat" and pictures_at is None:
            pictures_at = at
        at += size
        missing = max(at - length, 0)
    if moov_at is None:
        raise NotAnMp4(
            "the file has no header: it is cut short, or not a video" if seen else "this is not an MP4 file",
            "copy it again, whole",
        )
    movie = _Movie()
    _read_moov(moov, movie)
    faststart = pictures_at is None or moov_at < pictures_at
    return Mp4(movie.seconds, tuple(movie.tracks), movie.tags, faststart, missing)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each box, one after the other."""
    at, seen = 0, 0
    while at + 8 <= len(data) and seen < _MAX_BOXES:
        size, start, kind = int.from_bytes(data[at : at + 4], "big"), 8, data[at + 4 : at + 8]
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size < start or at + size > len(data):
            return  # what follows cannot be told apart; a terminator of four zeros is usual in old files
        yield kind, data[at + start : at + size]
        at += size
        seen += 1


def _read_moov(data: bytes, movie: _Movie) -> None:
    for kind, body in _boxes(data):
        if kind == b"mvhd":
            movie.seconds = _duration(body)
        elif kind == b"trak" and len(movie.tracks) < 32:
            movie.tracks.append(_track(body))
        elif kind == b"udta":
            for inner, text in _boxes(body):
                if inner == b"meta":
                    movie.tags.update(_tags(text))
                elif inner in _KNOWN:  # QuickTime's own: length, language, text
                    movie.tags[_KNOWN[inner]] = text[4 : 4 + int.from_bytes(text[:2], "big")].decode(
                        "utf-8", "replace"
                    )
        elif kind == b"meta":
            movie.tags.update(_tags(body))


def _track(data: bytes) -> Track:
    kind, codec, frames, seconds, width, height = "", "", 0, 0.0, 0, 0
    media = _inner(data, b"mdia")
    handler = _inner(media, b"hdlr")[8:12]
    kind = {b"vide": "video", b"soun": "audio"}.get(handler, handler.decode("latin-1"))
    seconds = _duration(_inner(media, b"mdhd"))
    table = _inner(_inner(media, b"minf"), b"stbl")
    frames = int.from_bytes(_inner(table, b"stsz")[8:12], "big")
    entry = _inner(table, b"stsd")[8:]
    codec = entry[4:8].decode("latin-1")
    if kind == "video" and len(entry) >= 36:
        width, height = int.from_bytes(entry[32:34], "big"), int.from_bytes(entry[34:36], "big")
    return Track(kind, codec, frames, seconds, width, height)


def _inner(data: bytes, wanted: bytes) -> bytes:
    return next((body for kind, body in _boxes(data) if kind == wanted), b"")


def _duration(body: bytes) -> float:
    """Of mvhd or mdhd, in seconds; both begin alike."""
    if body[:1] == b"\1":
        scale, ticks = int.from_bytes(body[20:24], "big"), int.from_bytes(body[24:32], "big")
    else:
        scale, ticks = int.from_bytes(body[12:16], "big"), int.from_bytes(body[16:20], "big")
    return ticks / scale if scale else 0.0


def _tags(body: bytes) -> dict[str, str]:
    """Of a meta box: tags by number with their names beside them (`keys`), or by four letters."""
    if body[4:8] != b"hdlr":  # ISO gives the box a version, QuickTime does not
        body = body[4:]
    names = _keys(_inner(body, b"keys"))
    tags: dict[str, str] = {}
    for kind, item in _boxes(_inner(body, b"ilst")):
        name = names.get(int.from_bytes(kind, "big")) if names else _KNOWN.get(kind)
        value = _inner(item, b"data")
        if name is not None and int.from_bytes(value[:4], "big") == _UTF8:
            tags[name] = value[8:].decode("utf-8", "replace")
    return tags


def _keys(body: bytes) -> dict[int, str]:
    return {n: name.decode("utf-8", "replace") for n, (_, name) in enumerate(_boxes(body[8:]), start=1)}
