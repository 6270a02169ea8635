"""A question to a process of its own: what crashes or hangs there (a driver, a GPU library) leaves us whole."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    """`value` is the JSON object of its last line of output; None with `fault` where there is none."""

    value: dict[str, Any] | None
    fault: str = ""


def ask(code: str, seconds: float, environment: Mapping[str, str] | None = None) -> Said:
    """Runs `code` in a fresh Python, killed after `seconds`."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=seconds,
            stdin=subprocess.DEVNULL, env=None if environment is None else dict(environment), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Said(None, f"it did not answer within {seconds:.0f} s")
    if done.returncode < 0:
        return Said(None, f"its process was ended by signal {-done.returncode}")
    lines = done.stdout.strip().splitlines()
    try:
        value: Any = json.loads(lines[-1])
        return Said(dict(value))
    except (IndexError, ValueError, TypeError):
        return Said(None, (done.stderr.strip().splitlines() or [f"it said nothing (exit {done.returncode})"])[-1])
