"""`python -m farm.bench.recovery`: how soon the farm is itself again after each fault, beside the goal.

A throw-away farm of two simulated nodes with three CPU workers and the real lease of 30 s; each fault hits a
worker that renders while another is idle and warm. About four minutes.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from farm.bench.farm import Farm
from farm.cluster import processes
from farm.cluster.poke import poke
from farm.db import jobs, workers
from farm.domain.states import Wish
from farm.domain.worker import Worker
from farm.throwaway import until

_LONG = 300.0  # seconds of a render that nobody waits for


@dataclass(frozen=True)
class Line:
    what: str
    seconds: float
    goal: float
    more: str = ""

    def __str__(self) -> str:
        mark = "ok  " if self.seconds <= self.goal else "MISS"
        return (
            f"{mark}  {self.seconds:6.2f} s  goal {self.goal:4.0f} s  {self.what}{self.more and f' ({self.more})'}"
        )


def killed_worker(farm: Farm) -> list[Line]:
    job, victim = _rendering(farm)
    os.kill(victim.pid, signal.SIGKILL)
    return _recovered(farm, job, "kill -9 of a worker", requeued=1.0, running=5.0)


def frozen_worker(farm: Farm) -> list[Line]:
    """Nothing but the lease tells of it: Ray sees a process that lives."""
    job, victim = _rendering(farm)
    os.kill(victim.pid, signal.SIGSTOP)
    return _recovered(farm, job, "a worker frozen (SIGSTOP), by the lease alone", requeued=35.0)


def frozen_node(farm: Farm) -> list[Line]:
    job, victim = _rendering(farm)
    node = farm.node_of(victim)
    node.signal(signal.SIGSTOP)
    lines = _recovered(farm, job, "a node frozen (SIGSTOP of all of it)", requeued=10.0)
    node.signal(signal.SIGCONT)
    return lines


def vanished_node(farm: Farm) -> list[Line]:
    job, victim = _rendering(farm)
    node = farm.node_of(victim)
    node.signal(signal.SIGKILL)
    lines = _recovered(farm, job, "a node vanished (SIGKILL of all of it)", requeued=10.0)
    node.start()
    return lines


def killed_raylet(farm: Farm) -> list[Line]:
    job, victim = _rendering(farm)
    node = farm.node_of(victim)
    os.kill(_named(node.processes(), "raylet"), signal.SIGKILL)
    return _recovered(farm, job, "kill -9 of a node's raylet", requeued=10.0)


def killed_head(farm: Farm) -> list[Line]:
    """Ray's central process: the renders go on, and the next job is given out as soon as it is back."""
    job, victim = _rendering(farm)
    before = {worker.id for worker in farm.workers()}
    began = time.monotonic()
    os.kill(_named(farm.server.processes(), "gcs_server"), signal.SIGKILL)
    second = farm.submit(1.0)
    farm.denoising(second)
    lines = [Line("kill -9 of Ray's GCS: another job renders", time.monotonic() - began, 15.0)]
    until("Ray is itself again", lambda: _named(farm.server.processes(), "gcs_server") or None)
    kept = before == {worker.id for worker in farm.workers()} and farm.job(job).epoch == 1
    lines.append(Line("kill -9 of Ray's GCS: workers lost", 0.0 if kept else float("inf"), 0.0, victim.gpu))
    return _ended(farm, job, lines)


def cancelled_job(farm: Farm) -> list[Line]:
    job, victim = _rendering(farm)
    began = time.monotonic()
    jobs.cancel(farm.db, job)
    poke(farm.settings)
    until("the worker is idle", lambda: _state(farm, victim.id) == "idle")
    return [Line("cancel: the worker is idle", time.monotonic() - began, 2.0)]


def restarted_worker(farm: Farm) -> list[Line]:
    before = {worker.id: worker for worker in farm.wait_idle()}
    victim = next(iter(before.values()))
    baseline = _resident(victim.pid)
    began = time.monotonic()
    workers.wish(farm.db, victim.id, Wish.RESTART)
    poke(farm.settings)

    def successor() -> Worker | None:
        return next((w for w in farm.workers() if w.gpu == victim.gpu and w.id not in before), None)

    new = until("a new worker is there", successor)
    until("it is idle, and the old one gone", lambda: (
        _state(farm, new.id) == "idle" and processes.started(victim.pid) is None
    ))  # fmt: skip
    now = _resident(new.pid)
    more = f"resident {baseline >> 20} -> {now >> 20} MiB"
    return [Line("restart of a worker: memory at its baseline", time.monotonic() - began, 10.0, more)]


SCENES: dict[str, Callable[[Farm], list[Line]]] = {
    "cancel": cancelled_job,
    "restart": restarted_worker,
    "killed": killed_worker,
    "raylet": killed_raylet,
    "gcs": killed_head,
    "frozen-node": frozen_node,
    "vanished-node": vanished_node,
    "frozen-worker": frozen_worker,
}


def _rendering(farm: Farm) -> tuple[str, Worker]:
    farm.wait_idle()
    job = farm.submit(_LONG)
    return job, farm.denoising(job)


def _recovered(farm: Farm, job: str, what: str, requeued: float, running: float | None = None) -> list[Line]:
    """From now until the first attempt is over, and until the second one renders; then the job is not needed."""
    began = time.monotonic()
    until("the job is taken back", lambda: any(a.outcome for a in jobs.attempts(farm.db, job)))
    lines = [Line(f"{what}: requeued", time.monotonic() - began, requeued)]
    if running is not None:
        farm.denoising(job, epoch=2)
        lines.append(Line(f"{what}: running again on a warm worker", time.monotonic() - began, running))
    return _ended(farm, job, lines)


def _ended(farm: Farm, job: str, lines: list[Line]) -> list[Line]:
    jobs.cancel(farm.db, job)
    poke(farm.settings)
    return lines


def _state(farm: Farm, worker: str) -> str | None:
    return next((w.state for w in farm.workers() if w.id == worker), None)


def _named(pids: list[int], name: str) -> int:
    return next(pid for pid in pids if processes.name(pid) == name)


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m farm.bench.recovery", description=__doc__)
    parser.add_argument("scenes", nargs="*", choices=[*SCENES, []], help="default: all")
    parser.add_argument("--keep", action="store_true", help="keep the farm's folder and its logs")
    options = parser.parse_args()
    missed = 0
    with Farm({"a": 2, "b": 1}, "farm.bench.paced_model:Pipeline", options.keep) as farm:
        for name in options.scenes or SCENES:
            for line in SCENES[name](farm):
                missed += line.seconds > line.goal
                print(line, flush=True)
    print("every goal is met" if not missed else f"{missed} goals are missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
