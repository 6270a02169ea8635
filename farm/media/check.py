"""Reading a video back: its frames, its tags, and whether it may be shown to anybody."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from farm.domain.errors import BlackVideo, BrokenVideo, FrozenNoise, TagsLost
from farm.media.colour import to_rgb
from farm.media.mp4 import NotAnMp4, read_tags

__all__ = ["BrokenVideo", "check_tags", "check_video", "decode", "frames_of", "read_metadata"]

Frames = np.ndarray[Any, np.dtype[np.uint8]]

BLACK = 12  # of 255: brighter than any rounding of black, darker than any night
STILL = 0.5  # mean change per pixel, in levels, below which two frames are the same picture
# Mean step between neighbouring pixels, in standard deviations: 1.13 in white noise, about 0.9 left of
# it after encoding; pictures of things stay below 0.4.
NOISE = 0.7


def check_video(path: Path, frames: int, size: tuple[int, int]) -> None:
    """Decode all of it and look. Raises BrokenVideo unless it has `frames` frames of (width, height),
    is not black throughout and not one frozen image of noise."""
    count, brightest, noisy, still = 0, 0, 0, 0
    before: np.ndarray[Any, np.dtype[np.int16]] | None = None
    for frame in _frames(path):
        if (frame.width, frame.height) != size:
            raise BrokenVideo(f"frame {count} of {path.name} is {frame.width}x{frame.height}, not {size}")
        luma = frame.to_ndarray(format="gray8").astype(np.int16)
        count += 1
        brightest = max(brightest, int(luma.max()))
        noisy += _is_noise(luma)
        still += before is not None and float(np.abs(luma - before).mean()) < STILL
        before = luma
    if count != frames:
        raise BrokenVideo(f"{path.name} has {count} of {frames} frames")
    if brightest <= BLACK:
        raise BlackVideo(f"{path.name} is black from start to end", "its device may be at fault")
    if frames > 1 and noisy == frames and still == frames - 1:
        raise FrozenNoise(f"{path.name} is one frozen image of noise", "the weights may be damaged")


def check_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Read them back with a reader that shares nothing with the writer. Raises TagsLost."""
    try:
        found = read_tags(path)
    except NotAnMp4 as error:
        raise TagsLost(f"the tags of {path.name} cannot be read back: {error.message}") from error
    for name, value in tags.items():
        if found.get(name) != value:
            raise TagsLost(f"the tag {name} of {path.name} reads {found.get(name)!r} instead of {value!r}"[:400])


def decode(path: Path) -> Frames:
    """All frames, RGB: uint8 [n, h, w, 3]. Raises BrokenVideo."""
    images = list(frames_of(path))
    if not images:
        raise BrokenVideo(f"{path.name} has no frames")
    return np.stack(images)


def frames_of(path: Path) -> Iterator[Frames]:
    """One frame after the other, RGB: uint8 [h, w, 3]. Raises BrokenVideo."""
    return (to_rgb(frame) for frame in _frames(path))


def read_metadata(path: Path) -> dict[str, str]:
    """The container's tags. Raises BrokenVideo."""
    try:
        with av.open(str(path)) as container:
            return dict(container.metadata)
    except (FFmpegError, IndexError) as error:
        raise BrokenVideo(f"{path.name} cannot be read: {error}") from error


def _frames(path: Path) -> Iterator[VideoFrame]:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # A decoder's habit is to paint over damage; here damage is what is looked for.
            stream.codec_context.options = {"err_detect": "explode"}
            yield from container.decode(stream)
    except (FFmpegError, IndexError) as error:
        raise BrokenVideo(f"{path.name} cannot be decoded: {error}", "it is rendered again by itself") from error


def _is_noise(luma: np.ndarray[Any, np.dtype[np.int16]]) -> bool:
    spread = float(luma.std())
    if spread < 4 or min(luma.shape) < 2:
        return False
    steps = float(np.abs(np.diff(luma, axis=1)).mean()), float(np.abs(np.diff(luma, axis=0)).mean())
    return min(steps) / spread > NOISE
