"""The label that people can read: in the corner, in every frame, at the height that the standard asks for."""

import numpy as np
import pytest

from farm.media.label import SHARE, VisibleLabel


@pytest.mark.parametrize("size", [(832, 480), (480, 832), (1280, 720), (96, 96)])
@pytest.mark.parametrize("paper", [0, 128, 255])
def test_it_stands_out_in_the_lower_right_corner_of_every_frame(size: tuple[int, int], paper: int) -> None:
    width, height = size
    frames = np.full((3, height, width, 3), paper, np.uint8)
    marked = VisibleLabel(width, height).draw(frames)
    assert (frames == paper).all(), "the given frames stay"
    changed = np.abs(marked.astype(int) - paper).max(axis=3) > 60
    rows, columns = (np.flatnonzero(changed[0].any(axis=axis)) for axis in (1, 0))
    assert rows.size, "it can be seen"
    assert rows[-1] - rows[0] + 1 >= SHARE * min(size) * 0.9
    assert rows[0] > height * 0.7
    assert columns[0] > width * (0.05 if min(size) < 200 else 0.5)
    assert (changed == changed[0]).all()
