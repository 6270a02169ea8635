"""The step's benchmark: its floors are the design's, and it runs from the first line to the last, in small."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.bench import dit
from tests.kernels import interpreting

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("case", "tokens", "linear", "cross", "attention"),
    [
        ("1.3b-480p", 32_760, 82.1, 3.1, 19.8 + 1.2),
        ("14b-480p", 32_760, 785, 13.7, 87.9 + 5.2),
        ("14b-720p", 75_600, 1810, 31.7, 468 + 11.9),
        ("a14b-i2v-720p", 75_600, 1810, 31.7, 468 + 11.9),
    ],
)
def test_a_steps_work_is_the_designs(case: str, tokens: int, linear: float, cross: float, attention: float) -> None:
    assert dit.CASES[case].tokens == tokens
    work = dit.work(dit.CASES[case])
    assert work.linear / 1e12 == pytest.approx(linear, rel=0.01)
    assert work.cross / 1e12 == pytest.approx(cross, rel=0.02)
    assert work.attention / 1e12 == pytest.approx(attention, rel=0.03)


def test_fewer_keys_are_less_work() -> None:
    case = dit.CASES["1.3b-480p"]
    assert dit.work(case, 64).cross * 8 == dit.work(case).cross


def test_without_a_card_the_benchmark_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA card here")
    done = subprocess.run(
        [sys.executable, "-m", "model.bench", "dit"], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1
    assert "needs a CUDA card" in done.stderr


@pytest.mark.timeout(300)
def test_every_part_runs_in_the_interpreter() -> None:
    """A small model in float32 on a CPU: what is measured has no meaning, but every line of it is there."""
    code = """
import tests.kernels.interpreting
import dataclasses, torch
from unittest.mock import patch
from kernels import switch
from kernels.bench.timing import Ceilings
from model.bench import dit
from model.wan.config import PRESETS, TransformerConfig
config = TransformerConfig(dim=128, ffn_dim=192, heads=2, layers=1, text_dim=32, text_len=104, sla=True)
preset = dataclasses.replace(PRESETS["wan2.1-t2v-1.3b"], transformer=config, topk=0.5)
case = dit.Case("small", preset, (32, 32))
def once(run, repeats=1, warm=0):
    run()
    return 1.0
choose = switch.forced
with (
    patch.object(dit, "seconds", once), patch.object(switch, "forced", lambda: choose() or "fast"),
    patch.multiple(torch.cuda, reset_peak_memory_stats=lambda: None, max_memory_allocated=lambda: 0,
                   mem_get_info=lambda: (1 << 40, 0), memory_reserved=lambda: 0, memory_allocated=lambda: 0,
                   synchronize=lambda: None),
):
    ways = ["torch", "fast", "fp8", "reference"]
    report = dit.measure(case, Ceilings(1e12, 1e12), 2e12, ways, None, print, "cpu", torch.float32)
errors = {way: found.get("error") for way, found in report["ways"].items()}
assert set(errors) == {"torch", "fast", "fp8", "reference"}, report
assert errors["torch"] == 0.0, errors
assert 0 < errors["fast"] < 1e-5, errors
assert 1e-3 < errors["fp8"] < 0.1, errors
assert report["ways"]["fp8"]["kernels"] is not None
print("ran")
"""
    done = interpreting.run("-W", "ignore", "-c", code)
    assert done.stdout.strip().endswith("ran"), done.stdout[-3000:] + done.stderr[-3000:]
