"""Which picture is asked for: its first frame, its size, its length. Pure.

Every refusal offers the nearest value that would be accepted.
"""

import re
from collections.abc import Callable
from typing import cast, get_args

from farm.domain.errors import InvalidRequest
from farm.domain.fields import Fields, number_of, quote
from farm.domain.job import JobSpec
from model.events import Fit
from model.wan.config import Preset
from model.wan.sizes import GRID, adaptive_size, nearest_size

MIN_FRAMES = 5  # one latent frame is a still
MOST_OBLONG = 4.0  # times as long as wide
FITS: tuple[Fit, ...] = get_args(Fit)

# (width, height) of the image of this digest; None: it has not been uploaded.
Images = Callable[[str], "tuple[int, int] | None"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ASPECT = re.compile(r"\s*(\d{1,4}(?:\.\d{1,4})?)\s*[:/x]\s*(\d{1,4}(?:\.\d{1,4})?)\s*")


def frames_of(seconds: float, preset: Preset) -> int:
    """The 4k + 1 frames nearest to a duration: 5 s at 16 fps are 81 frames."""
    return 4 * round(seconds * preset.fps / 4) + 1


def seconds_of(spec: JobSpec) -> str:
    """The duration people ask for ("5" for 81 frames at 16 fps): the inverse of `frames_of`."""
    return f"{(spec.frames - 1) / spec.fps:.2f}".rstrip("0").rstrip(".")


def image_of(wish: Fields, preset: Preset, images: Images) -> tuple[str | None, tuple[int, int] | None]:
    """The digest of the first frame and its (width, height), of a model that begins with one."""
    field = "image" if wish.get("image") is not None else "input_reference"
    value = wish.get(field)
    if preset.task != "i2v":
        if value is not None:
            raise InvalidRequest(
                f"{preset.name} makes videos from text only",
                "leave the image out, or choose an image-to-video model",
                field,
            )
        return None, None
    if value is None:
        raise InvalidRequest(
            f"{preset.name} needs an image to begin with",
            "add one: --image PATH, a file as input_reference, or the digest of an uploaded image",
            "image",
        )
    if wish.get("image") is not None and wish.get("input_reference") is not None:
        raise InvalidRequest("give image or input_reference, not both", "leave one of them out", "image")
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise InvalidRequest(
            f"{field} must be an image file or the digest of an uploaded one, not {quote(value)}",
            "upload it first: POST /api/images answers with its digest",
            field,
        )
    shape = images(value)
    if shape is None:
        raise InvalidRequest(
            f"this farm has no image {quote(value[:12])}", "upload it first: POST /api/images", field
        )
    return value, shape


def fit_of(wish: Fields, image: str | None) -> Fit:
    value = wish.get("fit")
    if value is None or image is None:
        if value is not None:
            raise InvalidRequest("fit says how an image fills the video", "leave it out, or add an image", "fit")
        return "crop"
    for fit in FITS:
        if value == fit:
            return fit
    raise InvalidRequest(
        f"fit must be one of {', '.join(FITS)}, not {quote(value)}",
        "crop cuts the image's edges, pad adds bars, stretch distorts it",
        "fit",
    )


def followed(wish: Fields, spec: JobSpec, image: tuple[int, int] | None) -> str | None:
    """What is to be said of a size that nobody wrote down. image: (width, height) of the first frame."""
    if wish.get("aspect") is not None:
        return f"The video is {spec.width}x{spec.height}, the nearest to {wish.get('aspect')}."
    if image is None or wish.get("size") is not None:
        return None
    return f"The video is {spec.width}x{spec.height}, after the shape of the image; a size fixes it."


def size_of(wish: Fields, preset: Preset, image: tuple[int, int] | None) -> tuple[int, int]:
    value = wish.get("size")
    if wish.get("aspect") is not None:
        if value is not None:
            raise InvalidRequest("give a size or an aspect, not both", "leave one of them out", "aspect")
        return _size_of_aspect(wish.get("aspect"), preset)
    if value is None:
        return preset.size if image is None else adaptive_size(image, preset.size, preset)
    default = f"{preset.size[0]}x{preset.size[1]}"
    sides = value.lower().replace("×", "x").replace("*", "x").split("x") if isinstance(value, str) else []
    numbers = [number_of(side) for side in sides]
    if len(numbers) != 2 or any(n is None or n <= 0 or not n.is_integer() for n in numbers):
        raise InvalidRequest(f"size must look like {default}, not {quote(value)}", f"use {default}", "size")
    width, height = (min(int(cast(float, n)), 10**9) for n in numbers)
    allowed = (
        width % GRID == 0
        and height % GRID == 0
        and preset.min_side <= min(width, height)
        and max(width, height) <= preset.max_side
        and width * height <= preset.max_pixels
    )
    if allowed:
        return width, height
    near = "x".join(map(str, nearest_size(width, height, preset)))
    if preset.min_side == preset.max_side:
        raise InvalidRequest(f"{preset.name} renders {near} only, not {value}", f"use {near}", "size")
    if width % GRID or height % GRID:
        why = f"width and height must be multiples of {GRID}"
    else:
        why = (
            f"{preset.name} renders sides from {preset.min_side} to {preset.max_side} "
            f"and at most {preset.max_pixels} pixels"
        )
    raise InvalidRequest(f"size {value} does not fit: {why}", f"the nearest that does is {near}", "size")


def _size_of_aspect(value: object, preset: Preset) -> tuple[int, int]:
    """The size of this aspect with as many pixels as the model's own."""
    found = _ASPECT.fullmatch(value) if isinstance(value, str) else None
    sides = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    if min(sides) <= 0:
        raise InvalidRequest(
            f"aspect must look like 16:9, not {quote(value)}", "use 16:9, 9:16, 1:1 or 4:3", "aspect"
        )
    longest = max(sides) / min(sides)
    if longest > MOST_OBLONG:
        near = f"{MOST_OBLONG:g}:1" if sides[0] > sides[1] else f"1:{MOST_OBLONG:g}"
        raise InvalidRequest(f"aspect {quote(value)} is too long and thin", f"the nearest is {near}", "aspect")
    if preset.min_side == preset.max_side and longest != 1:
        only = "x".join(map(str, preset.size))
        raise InvalidRequest(f"{preset.name} renders {only} only, not {value}", f"use {only}", "aspect")
    return adaptive_size((round(sides[0] * 1000), round(sides[1] * 1000)), preset.size, preset)


def frames_asked(wish: Fields, preset: Preset) -> int:
    frames, seconds = wish.integer("frames"), wish.number("seconds")
    if frames is not None and seconds is not None:
        raise InvalidRequest("give frames or seconds, not both", "leave one of them out", "frames")
    longest = f"{(preset.max_frames - 1) / preset.fps:.4g}"
    if seconds is not None:
        if not 0 < seconds < 1e6 or frames_of(seconds, preset) < MIN_FRAMES:
            raise InvalidRequest(
                f"{seconds:g} seconds is too short or too long for a video",
                f"{preset.name} renders {MIN_FRAMES / preset.fps:.2g} to {longest} seconds",
                "seconds",
            )
        wanted = frames_of(seconds, preset)
        if wanted > preset.max_frames:
            raise InvalidRequest(
                f"{seconds:g} seconds are {wanted} frames at {preset.fps} a second; "
                f"{preset.name} renders at most {preset.max_frames}",
                f"use seconds {longest} (frames {preset.max_frames}) or less",
                "seconds",
            )
        return wanted
    if frames is None:
        return preset.frames
    if frames % 4 == 1 and MIN_FRAMES <= frames <= preset.max_frames:
        return frames
    near = min(max(4 * round((frames - 1) / 4) + 1, MIN_FRAMES), preset.max_frames)
    raise InvalidRequest(
        f"frames must be 4k + 1 (5, 9, 13, ...), at most {preset.max_frames} for {preset.name}; not {frames}",
        f"the nearest is {near}",
        "frames",
    )
