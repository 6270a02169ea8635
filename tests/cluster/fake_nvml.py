"""Stands in for pynvml (FARM_NVML): as many GPUs as FAKE_GPUS names by uuid. They exist on paper only.

FAKE_GPU_USE names a JSON file of who is on them, and how they are:
{uuid: {"busy": percent, "celsius": degrees, "milliwatts": power, "used": bytes,
"processes": {pid: bytes}, "uncorrected": errors, "lost": code of NVML's error}}.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_WORDS = {3: "Not Supported", 6: "Not Found", 15: "GPU is lost", 16: "GPU requires reset", 999: "Unknown Error"}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(_WORDS[value])
        self.value = value


def nvmlInit() -> None: ...


def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    return len(_uuids())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    if uuid not in _uuids():
        raise NVMLError(6)
    return _uuids().index(uuid)


def nvmlDeviceGetTotalEccErrors(handle: int, kind: int, counter: int) -> int:
    assert (kind, counter) == (1, 0), "the uncorrected ones since the driver was loaded"
    return _said(handle, "uncorrected")


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    if "lost" in _use(handle):
        raise NVMLError(_use(handle)["lost"])
    return SimpleNamespace(total=80 << 30, used=_use(handle).get("used", 0))


def nvmlDeviceGetUtilizationRates(handle: int) -> SimpleNamespace:
    return SimpleNamespace(gpu=_said(handle, "busy"))


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    assert sensor == 0, "the chip's"
    return _said(handle, "celsius")


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return _said(handle, "milliwatts")


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    found = _use(handle).get("processes", {})
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=held) for pid, held in found.items()]


def nvmlSystemGetProcessName(pid: int) -> str:
    return "a process"


def nvmlDeviceGetUUID(handle: int) -> str:
    return _uuids()[handle]


def nvmlDeviceGetName(handle: int) -> str:
    return "Paper GPU"


def _said(handle: int, name: str) -> int:
    if name not in _use(handle):
        raise NVMLError(3)
    return _use(handle)[name]


def _uuids() -> list[str]:
    return os.environ["FAKE_GPUS"].split(",")


def _use(handle: int) -> dict[str, Any]:
    path = Path(os.environ.get("FAKE_GPU_USE", "/nowhere"))
    return json.loads(path.read_text()).get(_uuids()[handle], {}) if path.exists() else {}
