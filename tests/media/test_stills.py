"""Pictures for people: previews, posters, and a sheet whose labels can be read."""

import io

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFont

from farm.media import stills


def colours(n=17, size=(96, 96)):
    frames = np.zeros((n, size[1], size[0], 3), np.uint8)
    frames[..., 0] = np.linspace(0, 255, n, dtype=np.uint8)[:, None, None]
    return frames


def image(data):
    return Image.open(io.BytesIO(data))


def label_of(page, labels=1):
    """The strip of the page that holds the last label."""
    return page.crop((0, page.height - stills.TEXT - 2 * stills.GAP, page.width, page.height))


def test_a_jpeg_shows_the_picture():
    shown = image(stills.jpeg(colours()[8]))
    assert (shown.format, shown.size) == ("JPEG", (96, 96))
    assert np.abs(np.asarray(shown).astype(int) - colours()[8]).max() <= 4


def test_the_poster_is_the_middle():
    assert np.asarray(image(stills.poster(colours())))[48, 48, 0] == pytest.approx(127, abs=4)


def test_a_sheet_has_a_row_of_frames_from_first_to_last_for_each_video():
    page = np.asarray(image(stills.sheet([colours(), colours(5)], ["first", "second"], columns=4)))
    cell = 192
    row = page[stills.GAP + 50, [stills.GAP + i * (cell + stills.GAP) + 50 for i in range(4)], 0]
    assert list(row) == list(colours()[[0, 5, 11, 16], 0, 0, 0])
    below = stills.GAP + cell + stills.TEXT + 3 * stills.GAP + 50
    assert page[below, stills.GAP + 3 * (cell + stills.GAP) + 50, 0] == 255


def test_labels_are_drawn_and_differ():
    one, other = (label_of(image(stills.sheet([colours()], [text]))) for text in ("a red kite", "a blue ball"))
    assert ImageChops.difference(one, other).getbbox() is not None
    assert one.getextrema()[0][1] > 150, "light ink on dark paper"


def test_a_label_too_long_is_cut_and_stays_on_the_page():
    page = image(stills.sheet([colours()], ["w" * 1000], columns=2))
    assert label_of(page).crop((page.width - stills.GAP, 0, page.width, stills.TEXT)).getextrema()[0][1] < 60


def test_without_a_font_chinese_is_escaped(monkeypatch):
    monkeypatch.setattr(stills, "cjk_font", lambda: None)
    escaped = stills.sheet([colours()], ["红色 kite"])
    assert escaped == stills.sheet([colours()], ["\\u7ea2\\u8272 kite"])


def test_a_font_that_lacks_chinese_is_not_taken_for_one_that_has_it():
    assert not stills._draws_chinese(ImageFont.load_default(18))


@pytest.mark.skipif(stills.cjk_font() is None, reason="no font with Chinese is installed")
def test_with_a_font_chinese_is_drawn():
    red, blue = (label_of(image(stills.sheet([colours()], [text]))) for text in ("红色", "蓝色"))
    assert ImageChops.difference(red, blue).getbbox() is not None


def test_rows_and_labels_must_match():
    with pytest.raises(ValueError, match="1 rows, 2 labels"):
        stills.sheet([colours()], ["a", "b"])


def test_a_thumbnail_is_small_and_keeps_the_shape():
    frames = colours(1, (832, 480))
    assert image(stills.thumbnail(frames[0])).size == (320, 185)
    assert image(stills.thumbnail(colours(1)[0])).size == (96, 96), "never enlarged"


def test_a_strip_shows_the_first_the_last_and_what_lies_between():
    frames = colours(17, (64, 32))
    strip = stills.Strip(17, columns=5, height=32)
    for first in (0, 1, 5, 9, 13):  # as the decoder gives them
        strip.add(first, frames[first : first + (1 if first == 0 else 4)])
    page = np.asarray(image(strip.jpeg())).astype(int)
    assert page.shape == (32, 5 * 64 + 4 * 4, 3)
    middles = [page[16, 32 + i * 68, 0] for i in range(5)]
    assert np.abs(np.array(middles) - frames[[0, 4, 8, 12, 16], 0, 0, 0]).max() <= 4


def test_a_strip_of_a_short_video_has_each_frame_once():
    strip = stills.Strip(5, height=32)
    strip.add(0, colours(5, (32, 32)))
    assert image(strip.jpeg()).size == (5 * 32 + 4 * 4, 32)
    with pytest.raises(ValueError, match="at least one frame"):
        stills.Strip(5).jpeg()
