"""Frames become an MP4 that every browser plays: H.264, yuv420p, bt709, constant rate, faststart."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from farm.domain.folders import folder_error
from farm.media.colour import to_yuv

SMALL = 256  # pixels; up to here a clip is so small that colour is worth more than bytes


@dataclass(frozen=True)
class EncodedVideo:
    """A whole file. `bytes` is its size, `seconds` frames / fps."""

    path: Path
    sha256: str
    bytes: int
    frames: int
    seconds: float


class Encoder:
    """Write frames as they come, then close. Until then `path` does not exist; abandoned, it never will.

    size: (width, height) in pixels, both even. crf: 8 for tiny clips, else 18. Raises DiskFull or
    FolderUnusable where the folder of `path` cannot take the file.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], fps: int, *, crf: int | None = None, preset: str = "medium"
    ) -> None:
        width, height = size
        if width % 2 or height % 2 or width <= 0 or height <= 0:
            raise ValueError(f"{width}x{height}: yuv420p needs even sides")
        self.path = path
        self.size = size
        self.fps = fps
        self.frames = 0
        self._packets: list[Packet[VideoStream]] = []  # H.264: a few MB at most
        if crf is None:
            crf = 8 if max(size) <= SMALL else 18
        try:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".mp4")
        except OSError as error:
            raise folder_error(error, path.parent) from error
        os.close(descriptor)
        self._part: Path | None = Path(name)
        # use_metadata_tags: without it the container drops every tag it does not know, prompts too.
        options = {"movflags": "use_metadata_tags+faststart"}
        try:
            self._container = av.open(name, "w", format="mp4", options=options)
            self._stream = self._add_stream(width, height, crf, preset)
        except BaseException:
            self.abandon()
            raise

    def write(self, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """frames: uint8 [n, h, w, 3], RGB."""
        width, height = self.size
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
            raise ValueError(f"{frames.dtype} {frames.shape} is not uint8 [n, {height}, {width}, 3]")
        for image in frames:
            picture = to_yuv(image)
            picture.pts = self.frames
            picture.time_base = Fraction(1, self.fps)
            self._packets += self._stream.encode(picture)  # pyright: ignore[reportUnknownMemberType]
            self.frames += 1

    def close(self, metadata: Mapping[str, str]) -> EncodedVideo:
        """Finish the file and give it its name. metadata: tags of the container, any Unicode."""
        if self._part is None:
            raise ValueError("this encoder is closed")
        if self.frames == 0:
            self.abandon()
            raise ValueError("a video needs at least one frame")
        try:
            self._packets += self._stream.encode(None)  # pyright: ignore[reportUnknownMemberType]
            # The container takes its tags with its first packet, and they are only known now.
            self._container.metadata.update(metadata)
            self._container.mux(self._packets)  # pyright: ignore[reportUnknownMemberType]
            self._container.close()
            sha256 = hashlib.sha256()
            with self._part.open("r+b") as file:
                while chunk := file.read(1 << 20):
                    sha256.update(chunk)
                size = file.tell()
                os.fsync(file.fileno())
            os.replace(self._part, self.path)
        except OSError as error:  # FFmpeg's too: the packets reach the disk only here
            self.abandon()
            raise folder_error(error, self.path.parent) from error
        except BaseException:
            self.abandon()
            raise
        self._part = None
        return EncodedVideo(self.path, sha256.hexdigest(), size, self.frames, self.frames / self.fps)

    def abandon(self) -> None:
        """Leave no file. Harmless after close()."""
        if self._part is None:
            return
        if hasattr(self, "_container"):
            with contextlib.suppress(FFmpegError):
                self._container.close()
        self._part.unlink(missing_ok=True)
        self._part = None

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _add_stream(self, width: int, height: int, crf: int, preset: str) -> VideoStream:
        stream = self._container.add_stream(  # pyright: ignore[reportUnknownMemberType]
            "libx264", rate=self.fps
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, self.fps)
        context = stream.codec_context
        context.gop_size = self.fps  # a key frame a second: seeking lands where people point
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.options = {"crf": str(crf), "preset": preset}
        return stream
