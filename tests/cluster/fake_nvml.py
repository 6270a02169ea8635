"""Stands in for pynvml (FARM_NVML): as many GPUs as FAKE_GPUS names by uuid. They exist on paper only.

FAKE_GPU_USE names a JSON file of who is on them: {uuid: {"used": bytes, "processes": {pid: bytes}}}.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


def nvmlInit() -> None: ...


def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    return len(_uuids())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=80 << 30, used=_use(handle).get("used", 0))


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    found = _use(handle).get("processes", {})
    return [SimpleNamespace(pid=int(pid), usedGpuMemory=held) for pid, held in found.items()]


def nvmlSystemGetProcessName(pid: int) -> str:
    return "a process"


def nvmlDeviceGetUUID(handle: int) -> str:
    return _uuids()[handle]


def nvmlDeviceGetName(handle: int) -> str:
    return "Paper GPU"


def _uuids() -> list[str]:
    return os.environ["FAKE_GPUS"].split(",")


def _use(handle: int) -> dict[str, Any]:
    path = Path(os.environ.get("FAKE_GPU_USE", "/nowhere"))
    return json.loads(path.read_text()).get(_uuids()[handle], {}) if path.exists() else {}
