"""Runs test_elementwise.py in Triton's interpreter: a process of its own, for the mode is read at import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton

ROOT = Path(__file__).resolve().parents[2]
PROMISES = Path(__file__).parent / "test_elementwise.py"


@pytest.mark.skipif(
    tuple(int(n) for n in triton.__version__.split(".")[:2]) < (3, 7),
    reason="the interpreter of Triton 3.6 cannot run a loop with numpy 2.4",
)
@pytest.mark.timeout(600)
def test_the_element_wise_kernels_are_right_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", str(PROMISES)],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) > 60, done.stdout
    assert "skipped" not in done.stdout
