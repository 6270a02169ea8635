"""`make proof`: ten thousand histories, two thousand faults, five minutes of kills; exit 1 if a promise is broken.

`python -m tests.chaos.proof --seed 7` proves it on other dice.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

HISTORIES = (("sqlite", 7500), ("postgres", 2500))
FAULTS = (("sqlite", 1500), ("postgres", 500))
MINUTES = 5


def beside(commands: Sequence[Sequence[str]]) -> bool:
    """All at once, a core each; what they say comes when they end."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    good = True
    for command, process in zip(commands, running, strict=True):
        said, _ = process.communicate()
        good &= process.returncode == 0
        print(said if process.returncode else said.strip().splitlines()[-1], flush=True)
        if process.returncode:
            print(f"FAILED: python -m {' '.join(command)}", flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    seed = str(parser.parse_args().seed)
    began = time.monotonic()
    rounds: tuple[Sequence[Sequence[str]], ...] = tuple(
        [(f"tests.chaos.{proof}", "--database", on, "--count", str(count), "--seed", seed) for on, count in counts]
        for proof, counts in (("histories", HISTORIES), ("faults", FAULTS))
    )  # fmt: skip
    good = all([beside(commands) for commands in rounds])
    kills = [sys.executable, "-m", "farm.cli.main", "chaos", "--minutes", str(MINUTES), "--seed", seed]
    done = subprocess.run(kills, capture_output=True, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(done.stderr, f"FAILED: farm {' '.join(kills[3:])}", flush=True)
    good &= done.returncode == 0
    print(f"proof: {'every promise was kept' if good else 'BROKEN'}, {(time.monotonic() - began) / 60:.1f} minutes")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
