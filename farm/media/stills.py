"""Single pictures out of a video: JPEG previews, posters, and a labelled contact sheet."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = np.ndarray[Any, np.dtype[np.uint8]]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CELL = 192  # pixels: no frame on a sheet is narrower
GAP = 8
TEXT = 18
PAPER, INK = (24, 24, 26), (232, 232, 236)


def jpeg(image: Picture, quality: int = 85) -> bytes:
    """uint8 [h, w, 3] RGB. No chroma subsampling: previews are tiny and get enlarged."""
    return _jpeg(Image.fromarray(image), quality)


def png(image: Picture) -> bytes:
    """uint8 [h, w, 3] RGB, every pixel as it is."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def poster(frames: Picture) -> bytes:
    """JPEG of the middle frame of uint8 [n, h, w, 3]: there the motion has begun and not yet ended."""
    return jpeg(frames[len(frames) // 2], quality=90)


def thumbnail(frame: Picture, side: int = 320) -> bytes:
    """Small JPEG of uint8 [h, w, 3] for lists; its longer side has at most `side` pixels."""
    image = Image.fromarray(frame)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _jpeg(image, 85)


class Strip:
    """Eight frames of a video side by side, kept small while the frames stream by."""

    def __init__(self, frames: int, columns: int = 8, height: int = 180) -> None:
        shown = min(columns, frames)
        self._wanted = {round(i * (frames - 1) / max(1, shown - 1)) for i in range(shown)}
        self._height = height
        self._cells: dict[int, Image.Image] = {}

    def add(self, first: int, frames: Picture) -> None:
        """frames: uint8 [n, h, w, 3], the video's from `first` on."""
        for number in self._wanted.intersection(range(first, first + len(frames))):
            image = Image.fromarray(frames[number - first])
            width = max(1, round(image.width * self._height / image.height))
            self._cells[number] = image.resize((width, self._height), Image.Resampling.LANCZOS)

    def jpeg(self) -> bytes:
        """Left to right in time. Raises ValueError where no frame was added."""
        cells = [self._cells[number] for number in sorted(self._cells)]
        if not cells:
            raise ValueError("a strip needs at least one frame")
        page = Image.new("RGB", (sum(cell.width + GAP // 2 for cell in cells) - GAP // 2, self._height), PAPER)
        x = 0
        for cell in cells:
            page.paste(cell, (x, 0))
            x += cell.width + GAP // 2
        return _jpeg(page, 85)


def sheet(rows: Sequence[Picture], labels: Sequence[str], columns: int = 6) -> bytes:
    """PNG: a row of `columns` evenly spaced frames per video (uint8 [n, h, w, 3]), its label underneath.

    Small frames are enlarged by whole pixels. Where no installed font has Chinese, letters beyond
    ASCII are escaped (\\u4e2d), never drawn as empty boxes.
    """
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows, {len(labels)} labels")
    strips = [_strip(frames, columns) for frames in rows]
    width = max((strip.width for strip in strips), default=CELL) + 2 * GAP
    height = GAP + sum(strip.height + TEXT + 3 * GAP for strip in strips)
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    y = GAP
    for strip, label in zip(strips, labels, strict=True):
        page.paste(strip, (GAP, y))
        y += strip.height + GAP
        text, font = _fit(draw, *_printable(label), width - 2 * GAP)
        draw.text((GAP, y), text, font=font, fill=INK)
        y += TEXT + 2 * GAP
    out = io.BytesIO()
    page.save(out, "PNG", optimize=True)
    return out.getvalue()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def _strip(frames: Picture, columns: int) -> Image.Image:
    n, height, width, _ = frames.shape
    shown = min(columns, n)
    chosen = [round(i * (n - 1) / max(1, shown - 1)) for i in range(shown)]
    scale = max(1, -(-CELL // width))
    cell = (width * scale, height * scale)
    strip = Image.new("RGB", (len(chosen) * (cell[0] + GAP) - GAP, cell[1]), PAPER)
    for i, k in enumerate(chosen):
        image = Image.fromarray(frames[k]).resize(cell, Image.Resampling.NEAREST)
        strip.paste(image, (i * (cell[0] + GAP), 0))
    return strip


def _printable(label: str) -> tuple[str, Font]:
    label = " ".join(label.split())
    if label.isascii():
        return label, ImageFont.load_default(TEXT)
    font = cjk_font()
    if font is None:
        return label.encode("ascii", "backslashreplace").decode(), ImageFont.load_default(TEXT)
    return label, font


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> tuple[str, Font]:
    if draw.textlength(text, font=font) > width:
        while text and draw.textlength(text + "...", font=font) > width:
            text = text[:-1]
        text += "..."
    return text, font


@cache
def cjk_font() -> ImageFont.FreeTypeFont | None:
    """An installed font that draws Chinese; None if there is none."""
    for path in _font_files():
        try:
            font = _simplified(path)
        except OSError:
            continue  # not a font that can be read; the next one may be
        if _draws_chinese(font):
            return font
    return None


def _simplified(path: str) -> ImageFont.FreeTypeFont:
    """A collection holds one face per country, Japan's first; the same character looks a little different."""
    faces = [ImageFont.truetype(path, TEXT)]
    if path.lower().endswith(".ttc"):
        with suppress(OSError):  # the collection has no more faces
            for index in range(1, 32):
                faces.append(ImageFont.truetype(path, TEXT, index=index))
    return next((face for face in faces if (face.getname()[0] or "").endswith(" SC")), faces[0])


def _font_files() -> Iterator[str]:
    """Fonts whose names promise Chinese, in the places where systems keep them."""
    if sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), Path.home() / "Library/Fonts"]
    else:
        folders = [
            Path("/usr/share/fonts"),
            Path("/usr/local/share/fonts"),
            Path.home() / ".local/share/fonts",
        ]
    names = (
        "cjk", "notosanssc", "notosanshans", "sourcehan", "wqy", "droidsansfallback", "lxgw", "ukai", "uming",
        "arphic", "unifont", "pingfang", "heiti", "hiragino sans gb", "songti", "msyh", "simhei",
        "simsun", "deng",
    )  # fmt: skip
    for folder in folders:
        for path in sorted(folder.rglob("*"), key=lambda path: ("bold" in path.name.lower(), path)):
            if path.suffix.lower() in {".ttf", ".ttc", ".otf"} and any(n in path.name.lower() for n in names):
                yield str(path)


def _draws_chinese(font: Font) -> bool:
    """A character that a font lacks is drawn as its box for U+FFFF, which no font has."""
    drawn: list[bytes] = []
    for character in ("红", "\uffff"):
        image = Image.new("L", (2 * TEXT, 2 * TEXT))
        ImageDraw.Draw(image).text((4, 4), character, font=font, fill=255)
        drawn.append(image.tobytes())
    return drawn[0] != drawn[1]
