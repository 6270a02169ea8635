"""A farm that has been at work for a while: jobs in every state, two machines, a hold, a failure, a quarantine."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from farm.api.services import Services
from farm.db import jobs, nodes, quarantines, workers
from farm.domain.job import JobSpec
from farm.domain.request import new_job
from farm.domain.states import Wish
from farm.domain.worker import Load
from tests.served.machine import Machine

# Shape (frames, side, side, 3), of a spec; None: the machine's own ball.
Draw = Callable[[JobSpec], "np.ndarray | None"]

DONE = (
    "a large red circle moving to the right on a black background",
    "一个蓝色的星形在白色背景上变大",
    "a small green triangle moving up on a white background",
    "a large yellow star growing on a grey background",
    "a large purple ring moving to the left on a beige background",
    "黄色三角形在灰色背景上向上移动",
    "a small orange square moving down on a black background",
    "a large cyan circle shrinking on a black background",
)
RUNNING = "a large pink star moving to the right on a black background"
WAITING = ("a small red square growing on a white background", "一个大的绿色圆形在黑色背景上向左移动")


@dataclass(frozen=True)
class Furnished:
    """Ids of jobs, by how they are."""

    done: tuple[str, ...]
    running: str
    waiting: tuple[str, ...]
    held: str
    failed: str
    cancelled: str
    dependent: str


def submit(services: Services, prompt: str, **fields: object) -> str:
    return jobs.submit(services.db, [new_job({"prompt": prompt, **fields}, services.models)])[0].job.id


def furnish(services: Services, draw: Draw = lambda spec: None) -> Furnished:
    first = Machine(services.db, services.store, "w1")
    done: list[str] = []
    for number, prompt in enumerate(DONE):
        fields = {"seed": 1000 + number, "tags": {"shot": f"{number // 3 + 1:02}"}}
        done.append(submit(services, prompt, **fields))
        spec = first.take().spec
        if number == len(DONE) - 1:  # the newest has a history
            first.step(1, n=spec.steps)
            first.die()
            first = Machine(services.db, services.store, "w2")
            first.take()
        first.finish(frames=draw(spec))
    failed = submit(services, "a large grey donut spinning over a beige background", seed=7)
    first.take()
    first.fail()
    cancelled = submit(services, "a small white ring moving down on a black background", seed=8)
    jobs.cancel(services.db, cancelled)
    running = submit(services, RUNNING, seed=77)
    spec = first.take().spec
    frames = draw(spec)
    first.step(max(spec.steps - 1, 1), n=spec.steps, picture=None if frames is None else frames[len(frames) // 2])
    waiting = tuple(submit(services, prompt, seed=500 + i) for i, prompt in enumerate(WAITING))
    held = submit(services, "a large blue square moving up on a beige background", hold=True, seed=9)
    dependent = submit(
        services, "a small purple circle growing on a white background", seed=10, depends_on=[running, waiting[0]]
    )
    Machine(services.db, services.store, "w3", pid=4712)
    workers.wish(services.db, "w3", Wish.DRAIN, "ann", "new driver at noon")
    Machine(services.db, services.store, "w4", pid=811, node="attic")
    quarantines.put(services.db, "cpu:attic:4", "three faults on two jobs", "the farm", 3600)
    card = Machine(services.db, services.store, "w5", pid=812, node="attic", card="NVIDIA H100 80GB HBM3")
    card.load = Load(96, 61 << 30, 66, 612, tuple([0] * 14 + [97, 96, 12, 95] * 11), tuple(range(36, 66)))
    card.beat("idle")
    nodes.wish(services.db, "attic", Wish.DRAIN, "bob", "the roof leaks")
    return Furnished(tuple(done), running, waiting, held, failed, cancelled, dependent)
