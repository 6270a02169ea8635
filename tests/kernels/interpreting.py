"""Triton's interpreter, in a process of its own, for the mode is read at import; imported there, it costs half.

It replaces the words of the language anew for each call of a device function, by a survey of whole modules: here
once for each launch and set of modules, which is as far as it is ever undone.
"""

# pyright: reportPrivateUsage=false
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton
from triton import language as tl
from triton.runtime import interpreter

ROOT = Path(__file__).resolve().parents[2]
# What else is installed for pytest would take seconds to import.
ENVIRONMENT = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
NEEDED = pytest.mark.skipif(
    tuple(int(n) for n in triton.__version__.split(".")[:2]) < (3, 7),
    reason="the interpreter of Triton 3.6 cannot run a loop with numpy 2.4",
)


def passed(*files: Path) -> int:
    """How many tests of these files pass in the interpreter. Fails where one does not, or is skipped."""
    done = run(
        "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-p", __name__, "-q", *map(str, files),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found, done.stdout
    assert "skipped" not in done.stdout
    return int(found[1])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, where kernels are interpreted."""
    command, environment = [sys.executable, *arguments], os.environ | ENVIRONMENT
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def _words_once_a_launch() -> None:
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    replaced: set[tuple[bool, bool]] = set()

    def once(fn: Any) -> Any:
        modules = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        which = tl in modules, tl.core in modules
        if which in replaced:
            return None
        replaced.add(which)
        return patch(fn)

    def anew(self: Any, *arguments: Any, **named: Any) -> None:
        replaced.clear()
        launch(self, *arguments, **named)

    interpreter._patch_lang = once
    interpreter.GridExecutor.__call__ = anew


if os.environ.get("TRITON_INTERPRET") == "1":
    _words_once_a_launch()
