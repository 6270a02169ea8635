"""A finished video in other clothes: for any player, for an editing suite, as single pictures, at another rate."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm.media.check import frames_of
from farm.media.colour import to_ten_bits, to_yuv
from farm.media.encoder import Encoder

Picture = np.ndarray[Any, np.dtype[np.uint8]]

RATES = (1, 120)  # frames a second that may be asked for


class Variant(StrEnum):
    """VIDEO is the file as it was made."""

    VIDEO = "video"
    PLAYERS = "players"
    PRORES = "prores"
    PNG = "png"

    @property
    def extension(self) -> str:
        return {Variant.PRORES: "mov", Variant.PNG: "zip"}.get(self, "mp4")

    @property
    def media_type(self) -> str:
        return {"mov": "video/quicktime", "zip": "application/zip", "mp4": "video/mp4"}[self.extension]


def transcode(
    source: Path,
    target: Path,
    variant: Variant,
    tags: Mapping[str, str],
    *,
    rate: tuple[int, int],
    conform: bool = False,
) -> None:
    """rate: frames a second, before and after. It lasts as long as before, each moment shown by the frame nearest
    to it; with `conform` every frame is shown once, and what happens is faster or slower.

    PNG writes a ZIP of numbered pictures. Raises BrokenVideo; DiskFull or FolderUnusable where VIDEO is written.
    """
    before, after = (rate[1], rate[1]) if conform else rate
    pictures = retimed(frames_of(source), before, after)
    match variant:
        case Variant.PNG:
            _write_pictures(target, pictures, tags)
        case Variant.PRORES:
            # 3: HQ. The vendor's letters are asked for by editing programs on the Mac.
            options = {"profile": "3", "vendor": "apl0"}
            _write(target, pictures, after, "prores_ks", "yuv422p10le", options, tags)
        case Variant.PLAYERS:
            # What set-top boxes and old telephones decode: no B-frames, no CABAC, one reference.
            options = {"profile": "baseline", "crf": "16", "preset": "medium"}
            _write(target, pictures, after, "libx264", "yuv420p", options, tags)
        case Variant.VIDEO:
            _write_video(target, pictures, after, tags)


def retimed(frames: Iterable[Picture], before: int, after: int) -> Iterator[Picture]:
    """Frames at `after` a second for frames at `before`: some twice or left out, none in between invented."""
    shown = 0
    for number, frame in enumerate(frames):
        # Output frame k is seen from k / after on; its middle decides which input it shows.
        while (2 * shown + 1) * before < 2 * (number + 1) * after:
            yield frame
            shown += 1


def _write_video(target: Path, pictures: Iterator[Picture], fps: int, tags: Mapping[str, str]) -> None:
    first = next(pictures)
    with Encoder(target, (first.shape[1], first.shape[0]), fps) as encoder:
        encoder.write(first[None])
        for picture in pictures:
            encoder.write(picture[None])
        encoder.close(tags)


def _write(
    target: Path,
    pictures: Iterator[Picture],
    fps: int,
    codec: str,
    pixels: str,
    options: dict[str, str],
    tags: Mapping[str, str],
) -> None:
    kind = "mov" if codec.startswith("prores") else "mp4"
    flags = {"movflags": "use_metadata_tags+faststart"}
    with av.open(str(target), "w", format=kind, options=flags) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=fps)  # pyright: ignore[reportUnknownMemberType]
        first = next(pictures)
        stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], pixels  # pyright: ignore
        stream.time_base = Fraction(1, fps)
        context: Any = stream.codec_context
        context.gop_size = fps
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.options = options
        for number, picture in enumerate(_chained(first, pictures)):
            frame = to_ten_bits(picture) if pixels == "yuv422p10le" else to_yuv(picture)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))  # pyright: ignore
        container.mux(stream.encode(None))  # pyright: ignore


def _write_pictures(target: Path, pictures: Iterator[Picture], tags: Mapping[str, str]) -> None:
    told = PngInfo()
    for name, value in tags.items():
        told.add_itxt(name, value)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for number, picture in enumerate(pictures, start=1):
            with archive.open(f"frame_{number:05}.png", "w") as file:
                Image.fromarray(picture).save(file, "PNG", compress_level=3, pnginfo=told)
        archive.writestr("settings.json", json.dumps(dict(tags), ensure_ascii=False, indent=1))


def _chained(first: Picture, others: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from others
