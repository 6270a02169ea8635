"""Is the device free? Its last worker and all that it had started are gone, and its memory is given back.

Every worker looks before it touches the device, on the device's own machine, and ends what was left there.
"""

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from farm import gpus
from farm.cluster import beats, processes
from farm.cluster.slots import Slot
from farm.domain.errors import FarmError
from farm.ops.logging import Log
from farm.settings import Settings

# In the environment of a worker, and so of whatever it starts, wherever that runs off to.
MARK = "TURBOFARM_WORKER"
PATIENCE = 60.0  # seconds: a driver frees what a dead process held within a few, unless it is stuck
_LOOK_EVERY = 0.2
_SLACK = 1 << 29  # bytes: others, like a desktop, take a little more or less from time to time


class DeviceNotFree(FarmError):
    """Something of the last worker is still on the device, and cannot be ended."""

    code = "device_not_free"


@dataclass(frozen=True)
class _Note:
    """Of the worker that has the device. `used`: bytes of its memory that others held when it came."""

    worker: str
    pid: int
    started: int
    boot: str
    used: int


def enter(slot: Slot, settings: Settings, worker: str, log: Log, patience: float = PATIENCE) -> None:
    """Takes the device over. Raises DeviceNotFree where its last worker cannot be got rid of in time."""
    os.environ[MARK] = worker
    path = _note(slot, settings)
    last = _read(path)
    if last is not None and last.boot == processes.boot():  # the machine's restart has freed everything
        deadline = time.monotonic() + patience
        _end(settings, last, deadline, log)
        if slot.is_gpu:
            _wait_for_memory(slot.gpu, last, deadline, log)
    used = gpus.use(slot.gpu) if slot.is_gpu else None
    mine = _Note(
        worker, os.getpid(), processes.started(os.getpid()) or 0, processes.boot(),
        used.gpu.memory_used if used else 0,
    )  # fmt: skip
    _write(path, mine)


def _end(settings: Settings, last: _Note, deadline: float, log: Log) -> None:
    """Ray calls a worker dead that only cannot be reached, and knows nothing of children that left its group."""
    beats.reply_socket(settings, last.worker).unlink(missing_ok=True)
    if left := _left(last):
        log.warning("leftovers_killed", of=last.worker, pids=left)
    while left:
        processes.send(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise DeviceNotFree(
                f"process {left[0]} of the last worker cannot be ended",
                "it may hang in the driver: restart the machine",
            )
        time.sleep(_LOOK_EVERY)
        left = _left(last)


def _left(last: _Note) -> list[int]:
    found = set(processes.marked(MARK, last.worker))
    if last.started and processes.started(last.pid) == last.started:
        found.add(last.pid)
    return sorted(found - {os.getpid()})


def _wait_for_memory(gpu: str, last: _Note, deadline: float, log: Log) -> None:
    waited = False
    while (use := gpus.use(gpu)) is not None:
        held = use.gpu.memory_used - last.used
        if held <= _SLACK:
            return
        # Whom the driver names and we did not start has come since; what it holds is its own affair.
        strangers = [process for process in use.processes if processes.started(process.pid) is not None]
        if held <= sum(process.memory or 0 for process in strangers) + _SLACK:
            log.warning("device_shared", gpu=gpu, pids=[process.pid for process in strangers])
            return
        if not waited:
            waited = True
            log.info("waits_for_memory", gpu=gpu, held=held)
        if time.monotonic() > deadline:
            raise DeviceNotFree(
                f"{held / 2**30:.1f} GiB of {use.gpu.name} are held by no process that lives",
                "nvidia-smi may name who holds them; a reset of the card, or of the machine, frees them",
            )
        time.sleep(_LOOK_EVERY)


def _note(slot: Slot, settings: Settings) -> Path:
    return settings.run_dir / "devices" / f"{slot.log_name}.json"


def _read(path: Path) -> _Note | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _Note(**json.loads(path.read_text()))
    return None


def _write(path: Path, note: _Note) -> None:
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(note)))
    draft.replace(path)  # whole or not at all
