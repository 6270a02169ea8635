"""The visible label: "AI generated" in the lower right corner of every frame, for operators who must show it."""

import math
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from farm.media.stills import cjk_font

Frames = np.ndarray[Any, np.dtype[np.uint8]]

SHARE = 0.05  # of the shorter side: the least height of its letters (GB 45438-2025, 4.4)
SMALLEST = 9  # pixels, below which letters are dots
_OPAQUE = 0.85


class VisibleLabel:
    """For frames of one size. Chinese where a font for it is installed, English elsewhere."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)

    def draw(self, frames: Frames) -> Frames:
        """uint8 [n, h, w, 3] with the label in it; the given array stays as it is."""
        x, y, alpha = self._stamp
        h, w = alpha.shape
        marked = frames.copy()
        corner = marked[:, y : y + h, x : x + w].astype(np.float32)
        # A dark rim carries the white letters over bright pictures.
        rim = np.maximum.reduce([np.roll(alpha, shift, axis) for shift in (-1, 0, 1) for axis in (0, 1)])
        corner *= 1 - 0.6 * rim[None, :, :, None]
        corner += (255 - corner) * alpha[None, :, :, None] * _OPAQUE
        marked[:, y : y + h, x : x + w] = corner.round().astype(np.uint8)
        return marked

    @cached_property
    def _stamp(self) -> tuple[int, int, np.ndarray[Any, np.dtype[np.float32]]]:
        """Left, top, and how much of each pixel is letter: float32 [h, w] in [0, 1]."""
        width, height = self._size
        letters = max(SMALLEST, math.ceil(1.25 * SHARE * min(width, height)))  # a font's size is above its letters'
        found = cjk_font()
        text = "AI generated" if found is None else "AI生成"
        font = ImageFont.load_default(letters) if found is None else found.font_variant(size=letters)
        left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
        margin = max(2, letters // 3)
        picture = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(picture).text((2 - left, 2 - top), text, font=font, fill=255)
        if picture.width > width - margin:  # a tiny frame: as large as there is room
            scale = (width - margin) / picture.width
            picture = picture.resize((width - margin, max(1, round(picture.height * scale))))
        alpha = np.asarray(picture, dtype=np.float32) / np.float32(255)
        return max(0, width - margin - picture.width), max(0, height - margin - picture.height), alpha
