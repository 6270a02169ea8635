"""Retiming shows each moment by the frame nearest to it, and loses nothing when every frame is wanted."""

import numpy as np
import pytest

from farm.media.transcode import retimed


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
