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
    if frames is None and seconds is None:
        return preset.frames
    least, most = preset.min_frames, preset.max_frames
    if seconds is not None:
        if not 0 < seconds < 1e6:
            raise InvalidRequest(
                f"{seconds:g} seconds are no length of a video", f"use {_length(preset)}", "seconds"
            )
        frames = frames_of(seconds, preset)
        if not least <= frames <= most:
            raise InvalidRequest(
                f"{seconds:g} seconds are {frames} frames at {preset.fps} a second; {preset.name} renders "
                + (f"{least} to {most}" if least < most else f"{most} and no others"),
                f"use {_length(preset)}",
                "seconds",
            )
        return frames
    assert frames is not None
    if frames % 4 == 1 and least <= frames <= most:
        return frames
    near = min(max(4 * round((frames - 1) / 4) + 1, least), most)
    if least == most:
        why = f"{preset.name} renders {most} frames and no others"
    else:
        why = f"frames must be 4k + 1 ({least}, {least + 4}, {least + 8}, ...), at most {most} for {preset.name}"
    raise InvalidRequest(f"{why}; not {frames}", f"the nearest is {near}", "frames")


def _length(preset: Preset) -> str:
    """What to ask for instead, in seconds and frames."""
    least, most = (f"{(n - 1) / preset.fps:.4g}" for n in (preset.min_frames, preset.max_frames))
    if least == most:
        return f"seconds {most} (frames {preset.max_frames})"
    return f"seconds {least} to {most} (frames {preset.min_frames} to {preset.max_frames})"
