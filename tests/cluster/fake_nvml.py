"""Stands in for pynvml (FARM_NVML): as many GPUs as FAKE_GPUS names by uuid. They exist on paper only."""

import os
from types import SimpleNamespace


class NVMLError(Exception):
    pass


def nvmlInit() -> None: ...


def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    return len(_uuids())


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=80 << 30, used=0)


def nvmlDeviceGetUUID(handle: int) -> str:
    return _uuids()[handle]


def nvmlDeviceGetName(handle: int) -> str:
    return "Paper GPU"


def _uuids() -> list[str]:
    return os.environ["FAKE_GPUS"].split(",")
