"""One worker per visible GPU, or one on the CPU; each pinned to its device by name."""

from pathlib import Path

import pytest

from farm.cluster import ray_node, slots
from farm.cluster.slots import Slot, slots_here, slots_in
from farm.gpus import Gpu
from farm.settings import load_settings

GPUS = [Gpu(i, f"GPU-{i}", "Card", 80, 0) for i in range(3)]


def test_a_slot_per_gpu_and_no_more_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slots, "visible", lambda: GPUS)
    assert [s.resource for s in slots_here(load_settings(home=tmp_path))] == [
        "gpu:GPU-0",
        "gpu:GPU-1",
        "gpu:GPU-2",
    ]
    assert [s.gpu for s in slots_here(load_settings(home=tmp_path, workers=1))] == ["GPU-0"]
    command = ray_node.start_command(load_settings(home=tmp_path, workers=2), 1234)
    assert command[command.index("--num-gpus") + 1] == "2"
    assert command[command.index("--resources") + 1] == '{"gpu:GPU-0": 1, "gpu:GPU-1": 1}'


def test_without_a_gpu_one_worker_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slots, "visible", lambda: [])
    (slot,) = slots_here(load_settings(home=tmp_path))
    assert not slot.is_gpu
    assert slot.gpu.startswith("cpu:")
    assert len(slots_here(load_settings(home=tmp_path, workers=2))) == 2


def test_slots_are_found_among_what_ray_counts():
    assert slots_in({"CPU": 2.0, "node:1": 1.0, "gpu:GPU-1": 1.0, "cpu:vm:0": 1.0, "GPU": 1.0}) == [
        Slot("cpu:vm:0"), Slot("gpu:GPU-1")
    ]  # fmt: skip
