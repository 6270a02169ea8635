"""The self-test says in words what stops a kernel, and that nothing was run where there is no card."""

import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from kernels import selftest, switch

ROOT = Path(__file__).resolve().parents[2]
# Builds what Triton builds at a kernel's first launch, then asks what the failure means.
BUILD = """
import sys
from triton.runtime.build import compile_module_from_src
from kernels.selftest import diagnose
try:
    compile_module_from_src("#include <Python.h>", "probe")
except Exception as error:
    found = diagnose(error)
    print(found.ok, found.sentence, found.next, sep="|")
"""


def test_no_card_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = selftest.run()
    assert found.ok
    assert "no kernel was run" in found.sentence


def test_a_card_too_old_is_told_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    found = selftest.run("cuda:0")
    assert found.ok
    assert "compute capability is 7.5" in found.sentence


def test_missing_triton_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "device_obstacle", lambda _: "Triton is not installed")
    found = selftest.run("cuda:0")
    assert not found.ok
    assert "pip install" in found.next


def test_a_kernel_that_raises_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: torch.device) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(switch, "device_obstacle", lambda _: None)
    monkeypatch.setattr(selftest, "_compare", broken)
    found = selftest.run("cuda:0")
    assert not found.ok
    assert "illegal memory access" in found.sentence
    assert "TURBOFARM_KERNELS=reference" in found.next


def test_an_error_that_is_no_number_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    error = selftest._worse(selftest._worse(1e-6, math.nan), 1e-6)  # pyright: ignore[reportPrivateUsage]
    wrong = selftest.Check("element-wise work", error, 4e-3)
    right = selftest.Check("a linear layer in int8", 1e-4, 2e-3)
    monkeypatch.setattr(selftest, "_attention", lambda _: ({}, 0))
    monkeypatch.setattr(selftest, "_linear", lambda _: right)
    monkeypatch.setattr(selftest, "_elementwise", lambda _: wrong)
    monkeypatch.setattr(switch, "device_obstacle", lambda _: None)
    found = selftest.run("cpu")
    assert not found.ok
    assert found.sentence == "Element-wise work is wrong on Triton's interpreter: error nan (limit 4e-03)."


@pytest.mark.parametrize(
    ("environment", "sentence", "cure"),
    [
        ({"PATH": "/nowhere"}, "Triton needs a C compiler and there is none.", "apt-get install gcc"),
        ({"CC": "/no/cc"}, "Triton needs a C compiler and CC=/no/cc is not there.", "apt-get install gcc"),
        ({"CC": "/bin/false"}, "The C compiler /bin/false failed", "See its output"),
    ],
)
def test_a_missing_compiler_is_named(environment: dict[str, str], sentence: str, cure: str, tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "CC"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=ROOT,
        env=inherited | {"TRITON_CACHE_DIR": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )
    ok, said, following = done.stdout.strip().split("|")
    assert ok == "False", done.stderr
    assert said.startswith(sentence)
    assert cure in following


def test_missing_headers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("CC", "/bin/false")
    found = selftest.diagnose(subprocess.CalledProcessError(1, ["/bin/false", "main.c"]))
    assert "headers" in found.sentence
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-dev" in found.next


def test_the_command_prints_the_sentence_and_exits_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ok in (True, False):
        monkeypatch.setattr(selftest, "run", lambda ok=ok: selftest.Result(ok, "As found.", "Do this."))
        assert selftest.main() == (0 if ok else 1)
        assert capsys.readouterr().out == "As found.\n"


def test_asking_for_the_result_loads_neither_torch_nor_triton() -> None:
    code = "import sys, kernels.selftest; assert not {'torch', 'triton'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
