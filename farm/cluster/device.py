"""The device under a worker: threads, memory, whose fault an exception is. Never imports torch itself."""

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any, cast


def usable_cores() -> int:
    """Cores this process may run on (taskset and cgroup cpusets count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(count: int) -> None:
    """For the calling thread's tensor work; Ray had set one."""
    torch = _torch()
    if torch is not None:
        torch.set_num_threads(count)


def resident_memory() -> int:
    """Bytes of RAM this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the highest so far is the nearest there is
        return _highest_resident()
    return pages * resource.getpagesize()


def total_memory() -> int:
    """Bytes of RAM of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def return_free_memory() -> None:
    """To the system. glibc keeps what a render has freed, by chance more or less of it: it looks like a leak."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def return_free_device_memory() -> None:
    """After a render that did not fit: its fragments would keep the next one from fitting."""
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_memory() -> int:
    """Bytes of GPU memory in use by tensors now; 0 without a GPU."""
    torch = _torch()
    return int(torch.cuda.memory_allocated()) if torch is not None and torch.cuda.is_available() else 0


def reset_peak_memory() -> None:
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Bytes of GPU memory at the highest since the reset; without a GPU, of RAM since the process began."""
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return _highest_resident()


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "HIPOutOfMemoryError"):
        return True
    # Asked for below torch's allocator: by the driver, or by a library for its own work space.
    said = str(error)
    return "CUDA error: out of memory" in said or "CUBLAS_STATUS_ALLOC_FAILED" in said


def first_line(error: BaseException) -> str:
    """Without CUDA's paragraphs of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _highest_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _torch() -> Any:
    # Importing it costs seconds and hundreds of MB; whoever computes with it has imported it already.
    return cast(Any, sys.modules.get("torch"))
