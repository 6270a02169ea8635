"""What NVML says about the GPUs that this process may use; the only room that knows pynvml."""

import importlib
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One visible device. `index` is NVML's (PCI order); `memory` in bytes."""

    index: int
    uuid: str
    name: str
    memory: int
    memory_used: int


def visible() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; [] without a GPU, a driver or pynvml."""
    return select(installed(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def installed() -> list[Gpu]:
    """Every GPU of the machine, as NVML orders them."""
    try:
        # FARM_NVML names another module of the same functions: a machine with GPUs that only tests know.
        nvml: Any = importlib.import_module(os.environ.get("FARM_NVML", "pynvml"))
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, or no device behind it
        return []
    try:
        return [_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def select(gpus: list[Gpu], wanted: str | None) -> list[Gpu]:
    """What CUDA would show for this value of CUDA_VISIBLE_DEVICES: indices or (abbreviated) UUIDs.

    Like CUDA, the list ends at the first entry that names no device, or one named twice.
    """
    if wanted is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in wanted.split(",")):
        found = _named(gpus, entry)
        if found is None or found in chosen:
            break
        chosen.append(found)
    return chosen


def _named(gpus: list[Gpu], entry: str) -> Gpu | None:
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    matches = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _read(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory=int(memory.total),
        memory_used=int(memory.used),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
