"""CUDA_VISIBLE_DEVICES is honoured by index and by UUID, as CUDA itself reads it."""

import pytest

from farm.gpus import Gpu, select, visible

GPUS = [Gpu(i, uuid, "Card", 80, 0) for i, uuid in enumerate(["GPU-aa11", "GPU-ab22", "GPU-c333"])]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("0,-1,1", [0]),
        ("GPU-c333, 1", [2, 1]),
        ("GPU-ab", [1]),
        ("GPU-a", []),  # ambiguous
        ("1,1", [1]),
        ("7,0", []),
    ],
)
def test_visible_devices(value: str | None, expected: list[int]):
    assert [gpu.index for gpu in select(GPUS, value)] == expected


def test_no_gpu_is_an_empty_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible() == []
