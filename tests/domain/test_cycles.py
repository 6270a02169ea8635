"""Rings of jobs that wait for each other."""

import pytest

from farm.domain.cycles import cycle


@pytest.mark.parametrize(
    "needs",
    [{}, {1: [2]}, {1: [2, 3], 2: [4], 3: [4]}, {1: [2], 2: [3], 4: [2, 1]}, {n: [n + 1] for n in range(50_000)}],
)
def test_no_ring(needs):
    assert cycle(needs) is None


@pytest.mark.parametrize(
    ("needs", "ring"),
    [({1: [1]}, {1}), ({1: [2], 2: [3], 3: [1]}, {1, 2, 3}), ({0: [1], 1: [2, 9], 9: [8], 8: [9], 2: []}, {8, 9})],
)
def test_a_ring_is_named_in_its_order(needs, ring):
    found = cycle(needs)
    assert found is not None
    assert set(found) == ring
    assert all(after in needs[before] for before, after in zip(found, found[1:] + found[:1], strict=True))
