"""Faults into a small farm: `python -m tests.chaos.faults --database sqlite --count 2000 --seed 1`.

First one fault at points spread over all that a clean run has, each kind in turn; then two at once, by the seed.
After each run everything accepted must be over, once, with its video; `--plan 217:after` repeats one.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from farm.storage.folder import FolderStore
from tests.chaos.histories import fresh_url
from tests.chaos.injector import Fault, Kind
from tests.chaos.small_farm import SmallFarm
from tests.chaos.world import World

Plan = dict[int, Fault]
INTERLEAVINGS = 5  # seeds of who goes next; a point means something only within one


@dataclass
class Tally:
    runs: int = 0
    faults: int = 0
    points: int = 0


class Laboratory:
    """One database and one folder for many farms, emptied in between."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder

    def run(self, plan: Plan, seed: int) -> tuple[int, list[tuple[int, str, Kind]]]:
        """How many points the run had, and the faults that met one. Raises Violation."""
        world, root = self._world, self._folder / "store"
        world.injector.reset()
        world.empty()
        shutil.rmtree(root, ignore_errors=True)
        farm = SmallFarm(world, FolderStore(root), self._folder, seed)
        world.injector.reset(plan)
        farm.run()
        points, fired = world.injector.count, world.injector.fired
        world.injector.reset()
        farm.audit()
        return points, fired


@contextmanager
def laboratory(url: str) -> Iterator[Laboratory]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="farm-faults-", dir=memory if memory.is_dir() else None))
    world = World.on(url)
    try:
        yield Laboratory(world, folder)
    finally:
        world.close()
        shutil.rmtree(folder)


def run_faults(lab: Laboratory, product: str, count: int, seed: int) -> Tally:
    """Until `count` faults have met a point. Raises Violation after printing how to repeat it."""
    dice = random.Random(seed)
    tally = Tally()
    points = {}
    for number in range(INTERLEAVINGS):
        points[seed + number], _ = lab.run({}, seed + number)
    tally.points = sum(points.values())
    singles = [(s, point) for s, total in points.items() for point in range(total)]
    dice.shuffle(singles)
    kinds = list(Kind)
    for number in range(10 * count):
        if tally.faults >= count:
            return tally
        if tally.faults < count // 2 and number < len(singles) * len(kinds):
            order, point = singles[number % len(singles)]
            plan = {point: _fault(kinds[(number + number // len(singles)) % len(kinds)], dice)}
        else:
            order = dice.choice(list(points))
            plan = {point: _fault(dice.choice(kinds), dice) for point in dice.sample(range(points[order]), 2)}
        try:
            _, fired = lab.run(plan, order)
        except BaseException:
            told = ",".join(f"{point}:{fault.kind}:{fault.seconds:g}" for point, fault in plan.items())
            print(
                f"again: python -m tests.chaos.faults --database {product} --seed {order} --plan {told}",
                file=sys.stderr,
            )
            raise
        tally.runs += 1
        tally.faults += len(fired)
    return tally


def _fault(kind: Kind, dice: random.Random) -> Fault:
    """A hang is shorter than a lease or longer than one."""
    return Fault(kind, dice.choice((10.0, 29.0, 45.0, 100.0)))


def parse_plan(text: str) -> Plan:
    """ "217:after:45,300:kill-before:0" """
    words = [part.split(":") for part in text.split(",")]
    return {int(point): Fault(Kind(kind), float(rest[0]) if rest else 45.0) for point, kind, *rest in words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", help="one run with the faults at these points: 217:after,300:hang-before:45")
    options = parser.parse_args()
    began = time.monotonic()
    with fresh_url(options.database) as url, laboratory(url) as lab:
        if options.plan is not None:
            points, fired = lab.run(parse_plan(options.plan), options.seed)
            print(f"{points} points; met: {fired}; 0 violations")
            return
        tally = run_faults(lab, options.database, options.count, options.seed)
    print(
        f"faults {options.database}: {tally.faults} faults in {tally.runs} runs, over {tally.points} points of "
        f"{INTERLEAVINGS} interleavings, 0 violations, seed {options.seed}, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
