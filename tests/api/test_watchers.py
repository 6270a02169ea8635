"""The measurement of the watchers, small: those that read on, hang up and stall all hear how every job ended."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_watcher_misses_how_a_job_ended() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "farm.bench.watchers", "--watchers", "10", "--jobs", "20"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 final events lost, 0 wrong" in done.stdout
    assert "hangs up" in done.stdout
