"""The benchmark's floors are those of the design: a wrong floor makes any kernel look good."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.bench import linear, sparse_linear
from kernels.bench.timing import Ceilings, Work

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("shape", "layers", "teraflops"), [(0, 30, 19.8 + 1.2), (1, 40, 468 + 11.9)])
def test_a_steps_work_is_the_designs(shape: int, layers: int, teraflops: float) -> None:
    work = sparse_linear.work(sparse_linear.SHAPES[shape])
    assert work["module"].flops * layers / 1e12 == pytest.approx(teraflops, rel=0.03)
    assert work["module"].flops == pytest.approx(sum(w.flops for n, w in work.items() if n != "module"))


@pytest.mark.parametrize(("model", "layers", "teraflops"), [("1.3B", 30, 82.1), ("14B", 40, 1810)])
def test_a_steps_linear_work_is_the_designs(model: str, layers: int, teraflops: float) -> None:
    """q, k, v, the two o, cross-attention's q and the feed-forward; the rest of a block is small."""
    flops = {s.name.split()[-1]: 2.0 * s.m * s.n * s.k for s in linear.SHAPES if s.name.startswith(model)}
    block = flops["v"] + 3 * flops["o"] + flops["ffn.0"] + flops["ffn.2"]
    assert block * layers / 1e12 == pytest.approx(teraflops, rel=0.03)


def test_the_floor_is_the_slower_of_the_two() -> None:
    ceilings = Ceilings(bf16=1e12, copy=1e9)
    assert Work(flops=2e12, bytes=1e9).floor(ceilings) == 2.0
    assert Work(flops=1e12, bytes=3e9).floor(ceilings) == 3.0


def test_without_a_card_the_benchmark_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA card here")
    done = subprocess.run([sys.executable, "-m", "kernels.bench"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs a CUDA card" in done.stderr
