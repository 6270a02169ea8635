"""Can this machine render on a GPU: driver, torch, our kernels, and who else is on the card."""

from collections.abc import Collection
from pathlib import Path

from farm.gpus import Driver, GpuProcess
from farm.ops.checks.child import Said
from farm.ops.checks.finding import Finding, failed, ok, size, warning

OLDEST_DRIVER = "535.104.05"
OLDEST_FOR_CUDA_13 = "580"
_MUCH = 0.05  # share of a card's memory that strangers may hold without a word
NO_GPU = "no NVIDIA GPU: this machine renders on CPU"

ASK_TORCH = """
import json, torch
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available(),
    "devices": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]}))
"""
ASK_KERNELS = """
import importlib.util, json
if importlib.util.find_spec("kernels.selftest") is None:
    print(json.dumps({"missing": True}))
else:
    from kernels.selftest import run
    result = run()
    print(json.dumps({"ok": bool(result.ok), "sentence": str(result.sentence), "next": str(result.next)}))
"""


def devices_exist(proc: Path = Path("/proc/driver/nvidia"), dev: Path = Path("/dev/nvidia0")) -> bool:
    """Whether the kernel knows an NVIDIA card, driver or not."""
    return proc.exists() or dev.exists()


def check_driver(driver: Driver, devices: bool, torch: Said) -> Finding:
    if driver.version is None:
        if not devices:
            return ok("driver", NO_GPU)
        return failed(
            "driver", f"there is an NVIDIA GPU, but its driver does not answer: {driver.fault}",
            "run nvidia-smi; after an upgrade of the driver, restart the machine",
        )  # fmt: skip
    if not driver.gpus:
        return warning(
            "driver", f"driver {driver.version} sees no GPU", "run nvidia-smi; check the card and its power"
        )
    names = ", ".join(sorted({gpu.name for gpu in driver.gpus}))
    found = f"driver {driver.version}, {len(driver.gpus)} x {names}"
    if _version(driver.version) < _version(OLDEST_DRIVER):
        return failed(
            "driver", f"{found}: it is older than {OLDEST_DRIVER}",
            f"install driver {OLDEST_FOR_CUDA_13} or newer and restart the machine",
        )  # fmt: skip
    cuda = str((torch.value or {}).get("cuda") or "")
    if cuda and _version(cuda) >= (13,) and _version(driver.version) < _version(OLDEST_FOR_CUDA_13):
        return failed(
            "driver", f"{found}: torch was built for CUDA {cuda}, which needs {OLDEST_FOR_CUDA_13} or newer",
            f"install driver {OLDEST_FOR_CUDA_13} or newer, or a torch for CUDA 12",
        )  # fmt: skip
    return ok("driver", found)


def check_torch(torch: Said, gpus: int) -> Finding:
    said = torch.value
    if said is None:
        return failed(
            "torch", f"torch cannot be used: {torch.fault}", "install it again: pip install 'turbofarm[server,gpu]'"
        )
    version, cuda = said["version"], said["cuda"]
    if said["available"]:
        return ok("torch", f"torch {version} for CUDA {cuda} sees {', '.join(said['devices'])}")
    if not gpus:
        return ok("torch", f"torch {version}, on the CPU")
    if not cuda:
        return failed(
            "torch",
            f"torch {version} is a CPU build; it cannot use the GPU",
            "install a CUDA build: see pytorch.org",
        )
    return failed(
        "torch", f"torch {version} for CUDA {cuda} finds no GPU that it may use",
        "look at CUDA_VISIBLE_DEVICES and at the driver above",
    )  # fmt: skip


def check_kernels(said: Said, gpus: int) -> Finding:
    if said.value is None:
        how = "install a C compiler and Python's headers, then try again"
        return (failed if gpus else warning)("kernels", f"the self-test of our kernels failed: {said.fault}", how)
    if said.value.get("missing"):
        return ok("kernels", "this version has no kernels that need a test")
    verdict = ok("kernels", said.value["sentence"])
    return verdict if said.value["ok"] else failed("kernels", said.value["sentence"], said.value["next"])


def check_memory(driver: Driver, ours: Collection[int]) -> list[Finding]:
    """One finding per card: what is used, and by whom that is not of this farm."""
    findings: list[Finding] = []
    for gpu in driver.gpus:
        used = f"GPU {gpu.index}: {size(gpu.memory_used)} of {size(gpu.memory)} used"
        strangers = [p for p in driver.processes if p.gpu == gpu.uuid and p.pid not in ours]
        known = any(p.gpu == gpu.uuid and p.pid in ours for p in driver.processes)
        if strangers:
            who = "; ".join(_who(process) for process in strangers)
            findings.append(
                warning("gpu memory", f"{used}; not of this farm: {who}", "end them, or keep the farm off that card"
                        " (CUDA_VISIBLE_DEVICES)")
            )  # fmt: skip
        elif not known and gpu.memory_used > _MUCH * gpu.memory:
            findings.append(
                warning("gpu memory", f"{used}, by nobody that can be seen from here", "another container may hold"
                        " it, or a process that was killed: see nvidia-smi on the host")
            )  # fmt: skip
        else:
            findings.append(ok("gpu memory", used))
    return findings


def _who(process: GpuProcess) -> str:
    memory = f", {size(process.memory)}" if process.memory else ""
    return f"pid {process.pid} ({process.name}{memory})"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
