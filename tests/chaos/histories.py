"""Random histories of the job protocol: `python -m tests.chaos.histories --database sqlite --count 7500 --seed 1`.

A round of 250 has a seed of its own; a failing one is repeated alone with the command that is printed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from farm.db.engine import migrate
from tests.chaos.machine import Protocol
from tests.chaos.world import World
from tests.private_servers import CARELESS, private_postgres

ROUND = 250
STEPS = 24


@contextmanager
def fresh_url(product: str) -> Iterator[str]:
    """A migrated, empty database of this run's own."""
    if product == "postgres":
        with private_postgres(*CARELESS) as server:
            migrate(server.server.url)
            yield server.server.url
        return
    # In memory where the system has such a folder: what is tested here is no disk.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="farm-histories-", dir=memory if memory.is_dir() else None))
    try:
        url = f"sqlite:///{folder}/farm.db"
        migrate(url)
        yield url
    finally:
        shutil.rmtree(folder)


def run_histories(url: str, count: int, first_seed: int, shrink: bool = True) -> type[Protocol]:
    """Raises Violation, after printing the history that breaks the promise, the shortest one with `shrink`."""
    chaos = World.on(url)

    class Run(Protocol):
        world = chaos

    Run.__qualname__ = Run.__name__ = "Protocol"
    try:
        for number in range(-(-count // ROUND)):
            chosen = settings(
                max_examples=min(ROUND, count - number * ROUND), stateful_step_count=STEPS, database=None,
                deadline=None, suppress_health_check=list(HealthCheck), print_blob=False,
                report_multiple_bugs=False, phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            )  # fmt: skip
            try:
                run_state_machine_as_test(seed(first_seed + number)(Run), settings=chosen)
            except BaseException:
                product = chaos.db.dialect.replace("postgresql", "postgres")
                again = f"--database {product} --seed {first_seed + number} --count {ROUND}"
                print(f"again: python -m tests.chaos.histories {again}", file=sys.stderr)
                raise
    finally:
        chaos.close()
    return Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-shrink", action="store_true", help="do not look for the shortest one")
    options = parser.parse_args()
    began = time.monotonic()
    with fresh_url(options.database) as url:
        run = run_histories(url, options.count, options.seed, not options.no_shrink)
    print(
        f"histories {options.database}: {run.histories} histories, {run.calls} calls, {run.faults} faults, "
        f"0 violations, seed {options.seed}, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
