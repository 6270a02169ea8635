"""Retiming shows each moment by the frame nearest to it, and loses nothing when every frame is wanted."""

import numpy as np
import pytest

from farm.media.check import decode
from farm.media.encoder import Encoder
from farm.media.transcode import Variant, retimed, transcode


def numbers(before: int, after: int, count: int) -> list[int]:
    frames = [np.full((1, 1, 3), n, np.uint8) for n in range(count)]
    return [int(frame[0, 0, 0]) for frame in retimed(frames, before, after)]


@pytest.mark.parametrize(
    ("before", "after", "count"), [(16, 24, 81), (16, 25, 81), (12, 24, 33), (24, 16, 81), (30, 25, 9)]
)
def test_each_moment_is_shown_by_the_frame_of_its_middle(before: int, after: int, count: int) -> None:
    shown = numbers(before, after, count)
    assert abs(len(shown) / after - count / before) <= 1 / after
    assert shown == [min(int((k + 0.5) * before / after), count - 1) for k in range(len(shown))]
    assert shown[0] == 0
    assert shown[-1] >= count - 2


def test_the_same_rate_is_the_same_frames() -> None:
    assert numbers(16, 16, 81) == list(range(81))


def test_ten_bits_keep_the_colours(tmp_path) -> None:
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    for i, colour in enumerate([(200, 30, 30), (30, 160, 60), (40, 60, 210), (245, 245, 245)]):
        frames[:, :, 16 * i : 16 * i + 16] = colour
    source = tmp_path / "v.mp4"
    with Encoder(source, (64, 48), 12) as encoder:
        encoder.write(frames)
        encoder.close({})
    transcode(source, tmp_path / "e.mov", Variant.PRORES, {}, rate=(12, 12))
    before, after = decode(source).astype(int), decode(tmp_path / "e.mov").astype(int)
    for i in range(4):
        middle = np.s_[:, 8:40, 16 * i + 5 : 16 * i + 11]
        assert np.abs(before[middle].mean((0, 1, 2)) - after[middle].mean((0, 1, 2))).max() <= 2
