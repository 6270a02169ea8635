"""Sizes that a video may have. Pure Python: the API answers with these before any model is loaded."""

import math

from model.wan.config import Preset

GRID = 16  # pixels: 8x of the VAE times the transformer's 2x2 patch


def nearest_size(width: float, height: float, preset: Preset) -> tuple[int, int]:
    """The allowed size nearest to width x height, keeping the shape of the picture where that is possible."""

    def fit(side: float) -> int:
        clamped = min(max(side, preset.min_side), preset.max_side)
        return min(max(GRID * round(clamped / GRID), preset.min_side), preset.max_side)

    w, h = fit(width), fit(height)
    if w * h > preset.max_pixels:
        shrink = math.sqrt(preset.max_pixels / (w * h))
        w, h = fit(w * shrink), fit(h * shrink)
    while w * h > preset.max_pixels:  # rounding up may still be too large
        w, h = (w - GRID, h) if w >= h else (w, h - GRID)
    return w, h


def adaptive_size(image: tuple[int, int], size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    """The video's size for an image (width, height): the image's aspect at the area of `size`.

    Both sides are multiples of 16 that the preset allows (TurboDiffusion, --adaptive_resolution).
    """
    aspect = image[0] / image[1]
    area = size[0] * size[1]
    return nearest_size(math.sqrt(area * aspect), math.sqrt(area / aspect), preset)
