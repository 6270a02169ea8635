"""`farm doctor`: everything that must be right for this machine to render, looked at without changing it."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from farm import gpus
from farm.cluster.lock import FarmStatus, read_status
from farm.cluster.processes import session_members
from farm.ops.checks import gpu, machine, models, running, services, toolchain
from farm.ops.checks.child import ask
from farm.ops.checks.finding import Finding, failed
from farm.settings import Settings
from model.library import Library

Check = tuple[str, Callable[[], Finding | list[Finding]]]

_TORCH_PATIENCE, _KERNELS_PATIENCE = 90.0, 300.0  # seconds; a first import reads gigabytes, a first run compiles


def examine(settings: Settings) -> Iterator[Finding]:
    """Finding after finding, as they come. No secret is in them."""
    yield from (finding.without_secrets() for check in checks(settings) for finding in made(check))


def made(check: Check) -> list[Finding]:
    """What it found; a check that cannot be made is a finding of its own."""
    name, look = check
    try:
        found = look()
    except Exception as error:
        return [failed(name, f"this check could not be made: {type(error).__name__}: {error}", "please report it")]
    return found if isinstance(found, list) else [found]


def checks(settings: Settings) -> list[Check]:
    """In the order in which a person would look: the card first, the farm last."""
    driver = gpus.driver()
    cards = len(driver.gpus)
    status = read_status(settings)
    children = status.children if status.running else ()
    ours = {pid for child in children for pid in session_members(child.pid)}
    serves = any(child.name == "api" for child in children)
    torch = functools.cache(lambda: ask(gpu.ASK_TORCH, _TORCH_PATIENCE))
    return [
        ("driver", lambda: gpu.check_driver(driver, gpu.devices_exist(), torch())),
        ("torch", lambda: gpu.check_torch(torch(), cards)),
        ("gpu memory", lambda: gpu.check_memory(driver, ours)),
        ("toolchain", lambda: toolchain.check_toolchain(toolchain.read_toolchain(), cards)),
        ("kernels", lambda: gpu.check_kernels(ask(gpu.ASK_KERNELS, _KERNELS_PATIENCE), cards)),
        ("memory", lambda: machine.check_memory(machine.read_memory())),
        ("open files", lambda: machine.check_open_files(machine.read_open_files())),
        ("disk", lambda: [machine.check_disk(machine.read_disk(folder)) for folder in _folders(settings)]),
        ("model", lambda: models.check_models(*models.read_models(Library(settings.models)), settings.model)),
        ("database", lambda: services.check_database(services.read_database(settings.database_url))),
        ("store", lambda: services.check_store(settings.store)),
        ("port", lambda: _port(settings, status, serves)),
        ("farm", lambda: running.check_processes(status, str(settings.home))),
        ("nodes", lambda: _nodes(settings) if serves else []),
    ]


def _nodes(settings: Settings) -> list[Finding]:
    nodes, fault = running.read_nodes(settings)
    return [running.check_nodes(nodes, fault, running.read_staffed(settings.database_url))]


def _port(settings: Settings, status: FarmStatus, serves: bool) -> list[Finding]:
    if status.running and not serves:
        return []  # a render node has no page
    number = int(status.url.rpartition(":")[2]) if serves else settings.port
    return [machine.check_port(machine.read_port(settings.host, number, serves))]


def _folders(settings: Settings) -> list[Path]:
    """Home, and the store where it is a folder on another file system."""
    store = settings.store.removeprefix("file://")
    if "://" in store or _device(Path(store)) == _device(settings.home):
        return [settings.home]
    return [settings.home, Path(store)]


def _device(path: Path) -> int:
    return next(p for p in (path, *path.parents) if p.exists()).stat().st_dev
