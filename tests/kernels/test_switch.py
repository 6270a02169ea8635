"""One switch between kernel and reference: a CPU gets the reference, a card the kernel, a person the last word."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels import reference, switch
from model.wan.config import TransformerConfig
from model.wan.transformer import WanTransformer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    yield
    switch.use(None)


def draw(dim: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 100, 2, dim, generator=generator) for _ in range(3))
    return q, k, v, torch.eye(dim), torch.zeros(dim)


@pytest.mark.parametrize("force", [None, "environment", "function"])
def test_a_cpu_computes_the_reference(force: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if force == "environment":
        monkeypatch.setenv(switch.VARIABLE, "reference")
    if force == "function":
        switch.use("reference")
    out = switch.sparse_linear_attention(*draw(), 0.5)
    assert torch.equal(out, reference.sparse_linear_attention(*draw(), 0.5))


def test_a_kernel_forced_where_it_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switch.VARIABLE, "fast")
    with pytest.raises(ValueError, match="the device is cpu"):
        switch.sparse_linear_attention(*draw(), 0.5)
    with pytest.raises(ValueError, match="head_dim is 48"):
        switch.sparse_linear_attention(*draw(48), 0.5)
    q, k, v, weight, bias = draw()
    with pytest.raises(ValueError, match="forward only"):
        switch.sparse_linear_attention(q, k, v, weight.requires_grad_(), bias, 0.5)


def test_the_function_is_above_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switch.VARIABLE, "fast")
    switch.use("reference")
    assert switch.forced() == "reference"
    switch.use(None)
    assert switch.forced() == "fast"


def test_an_unknown_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switch.VARIABLE, "triton")
    with pytest.raises(ValueError, match="TURBOFARM_KERNELS=triton: say reference or fast"):
        switch.sparse_linear_attention(*draw(), 0.5)


@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)])
def test_cards_of_compute_8_and_later_run_kernels(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert (switch.device_obstacle(torch.device("cuda")) is None) == runs
    monkeypatch.setattr(torch.version, "cuda", None)  # a build for other makers' cards calls them cuda too
    assert switch.device_obstacle(torch.device("cuda")) == "this build of torch is not for CUDA"


def test_without_triton_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert switch.device_obstacle(torch.device("cuda")) == "Triton is not installed"


def test_the_transformer_asks_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    compute = switch.sparse_linear_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, topk: float) -> Tensor:
        asked.append(topk)
        return compute(q, k, v, weight, bias, topk)

    monkeypatch.setattr(switch, "sparse_linear_attention", spy)
    config = TransformerConfig(dim=64, ffn_dim=64, heads=2, layers=2, text_dim=16, text_len=4, sla=True)
    model = WanTransformer(config, topk=0.25)
    model(torch.randn(1, 16, 1, 8, 8), torch.tensor([500.0]), torch.randn(1, 4, 16))
    assert asked == [0.25, 0.25]


def test_choosing_does_not_load_triton() -> None:
    code = (
        "import sys, torch; from kernels import switch; import kernels.attention;"
        "q = torch.randn(1, 70, 1, 64); switch.sparse_linear_attention(q, q, q, torch.eye(64), None, 0.5);"
        "assert 'kernels.attention.sparse_linear' not in sys.modules;"
        "assert 'triton' not in sys.modules or 'torch._inductor' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
