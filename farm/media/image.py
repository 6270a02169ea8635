"""An image from outside, decoded safely: upright RGB pixels and nothing else leave this room.

What is kept is a PNG of those pixels, so that a job renders the same years later; EXIF (and with it where the
picture was taken), colour profiles, layers and further frames stay outside.
"""

import hashlib
import io
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

from farm.domain.errors import InvalidRequest

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 100_000_000
THUMBNAIL = 960  # pixels of the longer side
_FORMATS = ("JPEG", "PNG", "WEBP")
_SEND = "send it as JPEG, PNG or WebP"
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
_MAGIC = {
    b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF", b"8BPS": "Photoshop file",
    b"\0\0\1\0": "icon", b"<svg": "SVG", b"<?xml": "XML or SVG file", b"\x76\x2f\x31\x01": "OpenEXR file",
}  # fmt: skip

Image.MAX_IMAGE_PIXELS = None  # ours is the limit, and is asked first

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# Decoding takes up to 4 bytes a pixel: one at a time, so that ten uploads do not need ten times the memory.
_one_at_a_time = threading.Lock()


class ImageRefused(InvalidRequest):
    """Not an image that a video can begin with; the message says what is wrong with it."""

    code = "invalid_image"

    def __init__(self, message: str, next: str = _SEND) -> None:
        super().__init__(message, next, "image")


@dataclass(frozen=True)
class StoredImage:
    """The form that is kept: a PNG of upright RGB pixels, and a small JPEG of it to show. Sizes in pixels."""

    png: bytes
    thumbnail: bytes
    width: int
    height: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.png).hexdigest()


def take_in(data: bytes) -> StoredImage:
    """The image in `data`, checked and cleaned. Raises ImageRefused."""
    if not data:
        raise ImageRefused("the image file is empty")
    if len(data) > MAX_BYTES:
        raise ImageRefused(f"the image has {len(data) / 2**20:.0f} MiB; at most {MAX_BYTES >> 20} are taken")
    with _one_at_a_time:
        upright = _upright(data)
        return StoredImage(_png(upright), _thumbnail(upright), *upright.size)


def pixels(png: bytes) -> Pixels:
    """The stored form again: uint8 [h, w, 3]. Raises ImageRefused."""
    with _one_at_a_time:
        return np.asarray(_upright(png)).copy()


def png_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first 24 bytes of a PNG. Raises ImageRefused."""
    if len(head) < 24 or head[:8] != _PNG:
        raise ImageRefused("the stored image is not a PNG", "upload it again")
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def _upright(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # The header alone: a bomb is refused before a pixel of it is unpacked.
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageRefused(
                    f"the image has {width}x{height} pixels; at most {MAX_PIXELS // 10**6} million are taken",
                    "make it smaller: videos have at most one million",
                )
            image.seek(0)  # of an animation, the first frame
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except ImageRefused:
        raise
    except Image.DecompressionBombError:
        raise ImageRefused("the image has too many pixels", "make it smaller") from None
    except MemoryError:
        raise ImageRefused("the image needs more memory than there is", "make it smaller") from None
    # Whatever a hostile or broken file makes a decoder raise (struct.error, SyntaxError, ...): it is refused.
    except Exception as error:
        raise _unreadable(data, error) from None


def _unreadable(data: bytes, error: Exception) -> ImageRefused:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return ImageRefused(
            "the image is HEIC or AVIF, which is not read here",
            "save it as JPEG or PNG (on an iPhone: Settings, Camera, Formats, Most Compatible)",
        )
    known = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if known is not None:
        return ImageRefused(f"the image is a {known}")
    if data.startswith((_PNG, b"\xff\xd8\xff")) or data[8:12] == b"WEBP":
        return ImageRefused("the image is damaged or cut short", "save it again, then send it")
    return ImageRefused("the file is not an image")


def _rgb(image: Image.Image) -> Image.Image:
    """Eight bits of sRGB: transparency on white, other colour spaces converted, 16 bits rounded."""
    image = _srgb(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Only a PNG comes so, and it means 16 bits of grey.
        image = Image.fromarray(np.clip(np.asarray(image) / 257 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        seen = image.convert("RGBA")
        paper = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(paper, seen).convert("RGB")
    return image.convert("RGB")


def _srgb(image: Image.Image) -> Image.Image:
    """Photographs of phones are in wider colour spaces, and look pale if their numbers are read as sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "RGBA", "CMYK", "L"}:
        return image
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        wanted = "RGB" if image.mode == "CMYK" else image.mode
        if wanted == "L":
            return image  # grey stays grey
        return ImageCms.profileToProfile(image, theirs, _our_profile(), outputMode=wanted) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile that cannot be read is no reason to refuse the picture


def _our_profile() -> ImageCms.ImageCmsProfile:
    cms: Any = ImageCms  # createProfile carries no type
    return ImageCms.ImageCmsProfile(cms.createProfile("sRGB"))


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    clean = Image.frombytes("RGB", image.size, image.tobytes())  # carries no info of the original
    clean.save(out, "PNG", compress_level=3)
    return out.getvalue()


def _thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    Image.frombytes("RGB", small.size, small.tobytes()).save(out, "JPEG", quality=88)
    return out.getvalue()
