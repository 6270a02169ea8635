"""What people upload becomes upright RGB pixels, or one clear sentence; nothing else of the file survives."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from farm.media import image
from farm.media.image import ImageRefused, pixels, png_size, take_in


def file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def corners(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red at the top left, blue at the bottom right."""
    picture = np.full((size[1], size[0], 3), 128, np.uint8)
    picture[: size[1] // 2, : size[0] // 2] = (255, 0, 0)
    picture[size[1] // 2 :, size[0] // 2 :] = (0, 0, 255)
    return Image.fromarray(picture)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))


def at(data: bytes, x: int, y: int) -> tuple[int, ...]:
    return tuple(int(v) for v in pixels(take_in(data).png)[y, x])


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})]
)
def test_the_three_formats_are_read(kind: str, options: dict[str, Any]) -> None:
    taken = take_in(file(corners(), kind, **options))
    assert (taken.width, taken.height) == (60, 40)
    shown = pixels(taken.png).astype(int)
    assert shown.shape == (40, 60, 3)
    assert abs(shown[5, 5] - (255, 0, 0)).max() < 12
    assert abs(shown[35, 55] - (0, 0, 255)).max() < 12


def test_the_same_pixels_are_the_same_image_whatever_file_they_came_in() -> None:
    first, second = take_in(file(corners())), take_in(file(corners(), "WEBP", lossless=True))
    assert first.digest == second.digest
    assert take_in(first.png).digest == first.digest
    assert png_size(first.png[:24]) == (60, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_sideways_gives_an_upright_picture(orientation: int) -> None:
    undo = {
        1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4,
    }[orientation]  # fmt: skip
    stored = corners() if undo is None else corners().transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    taken = take_in(file(stored, "JPEG", quality=95, exif=exif))
    assert (taken.width, taken.height) == (60, 40)
    assert abs(pixels(taken.png)[5, 5].astype(int) - (255, 0, 0)).max() < 12


def test_where_the_picture_was_taken_is_not_kept() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    taken = take_in(file(corners(), "JPEG", exif=exif, comment=b"SecretComment"))
    for kept in (taken.png, taken.thumbnail):
        assert b"Secret" not in kept
        assert b"Exif" not in kept
        assert not Image.open(io.BytesIO(kept)).getexif()


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    half = Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    assert at(file(clear), 3, 3) == (255, 255, 255)
    assert at(file(half), 3, 3) == (127, 127, 127)
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert at(file(palette), 3, 3) == (10, 20, 30)
    assert at(file(palette, transparency=0), 3, 3) == (255, 255, 255)
    assert at(file(Image.new("LA", (20, 20), (0, 0))), 3, 3) == (255, 255, 255)


def test_print_colours_sixteen_bits_and_grey_become_rgb() -> None:
    ink = file(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", quality=95)
    red = at(ink, 3, 3)
    assert red[0] > 200
    assert max(red[1:]) < 60
    deep = Image.fromarray(np.full((20, 20), 0x8080, np.uint16))
    assert at(file(deep), 3, 3) == (128, 128, 128)
    dark = Image.fromarray(np.full((20, 20), 255, np.uint16))
    assert at(file(dark), 3, 3) == (1, 1, 1)
    assert at(file(Image.new("L", (20, 20), 77)), 3, 3) == (77, 77, 77)
    assert at(file(Image.new("1", (20, 20), 1)), 3, 3) == (255, 255, 255)


def test_a_colour_profile_is_applied_and_a_broken_one_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert at(file(Image.new("RGB", (20, 20), (200, 10, 10)), icc_profile=lab), 3, 3) == (200, 10, 10)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    shown = at(file(Image.new("RGB", (20, 20), (200, 10, 10)), icc_profile=srgb), 3, 3)
    assert max(abs(a - b) for a, b in zip(shown, (200, 10, 10), strict=True)) <= 2
    assert at(file(Image.new("RGB", (20, 20), (9, 9, 9)), icc_profile=b"nonsense"), 3, 3) == (9, 9, 9)


def test_of_an_animation_the_first_frame_counts() -> None:
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    for kind in ("PNG", "WEBP"):
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        moving = file(red, kind, save_all=True, append_images=[blue], **options)
        assert at(moving, 3, 3) == (255, 0, 0), kind


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int = 60_000) -> bytes:
    """A PNG of 3.6 gigapixels whose pixels were never written: only the header may be read."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(*_: Any) -> None:
        raise AssertionError("pixels were unpacked")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", unpacked)
    for side in (10_001, 60_000):
        with pytest.raises(ImageRefused, match="pixels"):
            take_in(bomb(side))


@pytest.mark.parametrize(
    ("data", "words", "help"),
    [
        (b"", "empty", "JPEG"),
        (b"\0" * (32 * 2**20 + 1), "32 MiB; at most 32", "JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC", "JPEG or PNG"),
        (file(corners(), "GIF"), "a GIF", "JPEG"),
        (file(corners(), "TIFF"), "a TIFF", "JPEG"),
        (file(corners(), "BMP"), "a BMP", "JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG", "JPEG"),
        (b"just some text", "not an image", "JPEG"),
        (file(noise(), "PNG")[:20_000], "cut short", "again"),
        (file(noise(), "JPEG")[:9000], "cut short", "again"),
        (file(noise(), "WEBP")[:9000], "cut short", "again"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_clear_sentence(data: bytes, words: str, help: str) -> None:
    with pytest.raises(ImageRefused) as caught:
        take_in(data)
    assert words in caught.value.message
    assert help in caught.value.next
    assert "\n" not in caught.value.message


def test_a_large_photograph_is_kept_whole_and_shown_small() -> None:
    taken = take_in(file(corners((3000, 2000)), "JPEG"))
    assert (taken.width, taken.height) == (3000, 2000)
    assert Image.open(io.BytesIO(taken.thumbnail)).size == (image.THUMBNAIL, 640)


def test_noise_of_every_length_is_refused_and_never_crashes() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = file(noise(), kind)
        for cut in range(1, len(whole) - 100, 997):
            with pytest.raises(ImageRefused):
                take_in(whole[:cut])
    chaos = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "WEBP"):
        good = bytearray(file(corners((200, 200)), kind))
        for _ in range(60):
            bad = good.copy()
            for place in chaos.integers(0, len(bad), 8):
                bad[place] = chaos.integers(0, 256)
            try:
                take_in(bytes(bad))
            except ImageRefused:
                continue
