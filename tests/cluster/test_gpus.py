"""CUDA_VISIBLE_DEVICES is honoured by index and by UUID, as CUDA itself reads it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from farm.gpus import Gpu, Health, health, select, visible

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


def test_what_nvml_says_is_read_and_a_broken_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    class Fault(Exception):
        pass

    class Broken:
        NVMLError = Fault

        def nvmlInit(self) -> None:
            raise Fault("driver not loaded")

    class Driver(Broken):
        def nvmlInit(self) -> None: ...
        def nvmlShutdown(self) -> None: ...
        def nvmlDeviceGetCount(self) -> int:
            return 2

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
            return index

        def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
            return SimpleNamespace(total=80, used=handle)

        def nvmlDeviceGetUUID(self, handle: int) -> str:
            return f"GPU-{handle}"

        def nvmlDeviceGetName(self, handle: int) -> bytes:  # bytes in older versions
            return b"Card"

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    assert visible() == [Gpu(1, "GPU-1", "Card", 80, 1)]
    monkeypatch.setitem(sys.modules, "pynvml", Broken())
    assert visible() == []


def test_a_card_that_is_lost_neither_hides_nor_renames_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    use = tmp_path / "use"
    use.write_text('{"GPU-b": {"lost": 15}}')
    monkeypatch.setenv("FARM_NVML", "tests.cluster.fake_nvml")
    monkeypatch.setenv("FAKE_GPUS", "GPU-a,GPU-b,GPU-c")
    monkeypatch.setenv("FAKE_GPU_USE", str(use))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert [gpu.uuid for gpu in visible()] == ["GPU-c", "GPU-a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [gpu.uuid for gpu in visible()] == ["GPU-a", "GPU-c"]
    assert health("GPU-a") == Health()
    assert health("GPU-b") == Health(lost="GPU is lost")
    assert health("GPU-d") == Health(lost="Not Found")
    use.write_text('{"GPU-a": {"uncorrected": 3}, "GPU-b": {"lost": 999}}')
    assert health("GPU-a") == Health(uncorrected=3)
    assert health("GPU-b") is None, "a driver that is confused has not said that the card is lost"


def test_no_gpu_is_an_empty_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible() == []
