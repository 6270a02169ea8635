"""The machine under the farm: its port, disks, memory and limits."""

import os
import resource
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from farm.cluster import processes
from farm.ops.checks.finding import GIB, Finding, failed, ok, size, warning

_FULL, _TIGHT = 1 * GIB, 10 * GIB  # free bytes: a few clips; a day's work
_FEW_INODES = 10_000
_LITTLE_RAM, _TIGHT_RAM = 1 * GIB, 4 * GIB
_FEW_FILES = 4096  # Ray opens some hundred per worker


@dataclass(frozen=True)
class Port:
    """`taken`: somebody listens there; `owner` as far as it can be seen."""

    host: str
    number: int
    taken: bool
    owner: str | None
    ours: bool


@dataclass(frozen=True)
class Disk:
    """inodes None: this file system does not count them."""

    path: Path
    free: int
    total: int
    inodes: int | None
    writable: bool


def read_port(host: str, number: int, ours: bool) -> Port:
    """`ours`: a farm of this folder is running and is to be found there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
            probe.listen()
        except OSError:
            return Port(host, number, True, processes.port_owner(number), ours)
    return Port(host, number, False, None, ours)


def check_port(port: Port) -> Finding:
    where = f"port {port.number} on {port.host}"
    if port.ours:
        return ok("port", f"{where} is this farm's") if port.taken else failed(
            "port", f"the farm is running, but nobody listens at {where}", "look into logs/api.out of its folder"
        )  # fmt: skip
    if not port.taken:
        return ok("port", f"{where} is free")
    by = f"by {port.owner}" if port.owner else "by a process of another user (on Windows, WSL's relay may hold it)"
    return failed("port", f"{where} is in use {by}", "stop that program, or choose another port: FARM_PORT, --port")


def read_disk(path: Path) -> Disk:
    """Of the file system on which `path` lies or would lie."""
    there = next(p for p in (path, *path.parents) if p.exists())
    usage, inodes = shutil.disk_usage(there), os.statvfs(there)
    return Disk(
        path, usage.free, usage.total, inodes.f_favail if inodes.f_files else None, os.access(there, os.W_OK)
    )


def check_disk(disk: Disk) -> Finding:
    free = f"{disk.path}: {size(disk.free)} of {size(disk.total)} free"
    if not disk.writable:
        return failed(
            "disk", f"{disk.path} cannot be written by this user", "choose another folder, or give it away"
        )
    if disk.free < _FULL:
        return failed("disk", free, "free some space: jobs fail when a video cannot be written")
    if disk.inodes is not None and disk.inodes < _FEW_INODES:
        return failed("disk", f"{free}, but only {disk.inodes} files more fit", "delete small files there")
    if disk.free < _TIGHT:
        return warning("disk", free, "free some space soon")
    return ok("disk", free)


def read_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> tuple[int, int] | None:
    """(available, total) bytes of RAM, within the limit of a container; None where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((cgroup / "memory.max").read_text())
        return min(available, limit - int((cgroup / "memory.current").read_text())), min(total, limit)
    except (OSError, ValueError):  # no limit
        return available, total


def check_memory(memory: tuple[int, int] | None) -> Finding:
    if memory is None:
        return ok("memory", "this system does not say how much is free")
    said = f"{size(memory[0])} of {size(memory[1])} RAM available"
    if memory[0] < _LITTLE_RAM:
        return failed("memory", said, "end other programs: the system would kill the workers")
    if memory[0] < _TIGHT_RAM:
        return warning("memory", said, "enough for the demo model; large weights pass through RAM when they load")
    return ok("memory", said)


def read_open_files() -> int:
    """The soft limit; -1: none."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def check_open_files(limit: int) -> Finding:
    if limit in (-1, resource.RLIM_INFINITY):
        return ok("open files", "no limit")
    if limit < _FEW_FILES:
        return warning(
            "open files", f"at most {limit} per process", "raise it: ulimit -n 65536 (systemd: LimitNOFILE)"
        )
    return ok("open files", f"at most {limit} per process")
