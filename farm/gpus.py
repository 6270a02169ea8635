"""What NVML says about this machine's GPUs and their driver; the only room that knows pynvml."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Of nvml.h: the kinds of error counters, and the answers of a card that was there and is of no use any more (not
# found, lost, to be reset).
_UNCORRECTED, _SINCE_DRIVER = 1, 0
_OF_THE_CHIP = 0  # the sensor
_LOST = frozenset({6, 15, 16})


@dataclass(frozen=True)
class Gpu:
    """One visible device. `index` is NVML's (PCI order); `memory` in bytes."""

    index: int
    uuid: str
    name: str
    memory: int
    memory_used: int


@dataclass(frozen=True)
class GpuProcess:
    """A process with memory on a GPU. `pid` is the host's: inside a container it may mean nobody."""

    gpu: str  # uuid
    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True)
class Use:
    """One GPU, and the processes that the driver is willing to name."""

    gpu: Gpu
    processes: tuple[GpuProcess, ...]


@dataclass(frozen=True)
class Health:
    """`uncorrected`: memory errors since the driver was loaded; None: the card does not count them.

    `lost`: why the driver cannot use the card any more; "" while it can.
    """

    uncorrected: int | None = None
    lost: str = ""


@dataclass(frozen=True)
class Reading:
    """utilisation in percent, memory in bytes in use by anybody, temperature in degrees Celsius, power in watts;
    None: this card does not tell.
    """

    utilisation: int | None
    memory: int | None
    temperature: int | None
    power: int | None


@dataclass(frozen=True)
class Driver:
    """`version` None: there is none that answers; `fault` says what NVML said."""

    version: str | None
    fault: str = ""
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()


def visible() -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; [] without a GPU, a driver or pynvml."""
    return select(installed(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def installed() -> list[Gpu]:
    """Every GPU of the machine that answers, as NVML orders them."""
    try:
        nvml = _nvml()
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver, or no device behind it
        return []
    try:
        found = [_read_if_there(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        return [gpu for gpu in found if gpu is not None]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def driver() -> Driver:
    """Everything at once, for those who look what is wrong."""
    try:
        nvml = _nvml()
    except ImportError:
        return Driver(None, "the Python package nvidia-ml-py is not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Driver(None, str(error))
    try:
        gpus = tuple(_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        processes = tuple(process for gpu in gpus for process in _processes(nvml, gpu))
        return Driver(_text(nvml.nvmlSystemGetDriverVersion()), "", gpus, processes)
    except nvml.NVMLError as error:
        return Driver(None, str(error))
    finally:
        nvml.nvmlShutdown()


def use(uuid: str) -> Use | None:
    """Who is on the GPU now; None where it is not to be found."""
    gpu = next((gpu for gpu in installed() if gpu.uuid == uuid), None)
    if gpu is None:
        return None
    nvml = _nvml()
    try:
        nvml.nvmlInit()
        return Use(gpu, tuple(_processes(nvml, gpu)))
    except nvml.NVMLError:  # not every driver, or container, tells
        return Use(gpu, ())
    finally:
        nvml.nvmlShutdown()


def health(uuid: str) -> Health | None:
    """What the driver says of this card; None where nobody can tell."""
    try:
        nvml = _nvml()
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        nvml.nvmlDeviceGetMemoryInfo(handle)  # a card may be known and yet not answer
    except nvml.NVMLError as error:
        return Health(lost=str(error)) if error.value in _LOST else None
    else:
        return Health(_uncorrected(nvml, handle))
    finally:
        nvml.nvmlShutdown()


def reading(uuid: str) -> Reading | None:
    """How hard this card works now; None where nobody can tell."""
    try:
        nvml = _nvml()
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return Reading(
            _told(nvml, lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            _told(nvml, lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)),
            _told(nvml, lambda: int(nvml.nvmlDeviceGetTemperature(handle, _OF_THE_CHIP))),
            _told(nvml, lambda: round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000)),
        )
    except nvml.NVMLError:
        return None
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
        # Not by its place in the list: a card that does not answer leaves a gap there.
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    matches = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _nvml() -> Any:
    # FARM_NVML names another module of the same functions: a machine with GPUs that only tests know.
    return importlib.import_module(os.environ.get("FARM_NVML", "pynvml"))


def _processes(nvml: Any, gpu: Gpu) -> list[GpuProcess]:
    found: list[GpuProcess] = []
    handle = nvml.nvmlDeviceGetHandleByIndex(gpu.index)
    for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
        try:
            name = _text(nvml.nvmlSystemGetProcessName(process.pid))
        except nvml.NVMLError:  # it has just ended, or is another container's
            name = "unknown"
        found.append(GpuProcess(gpu.uuid, int(process.pid), name, process.usedGpuMemory))
    return found


def _told(nvml: Any, ask: Callable[[], int]) -> int | None:
    """What a card may or may not answer."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _uncorrected(nvml: Any, handle: Any) -> int | None:
    return _told(nvml, lambda: int(nvml.nvmlDeviceGetTotalEccErrors(handle, _UNCORRECTED, _SINCE_DRIVER)))


def _read_if_there(nvml: Any, index: int) -> Gpu | None:
    """One card that has fallen off the bus does not take the others with it."""
    try:
        return _read(nvml, index)
    except nvml.NVMLError as error:
        if error.value in _LOST:
            return None
        raise


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
