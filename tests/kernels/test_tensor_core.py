"""Sums of e4m3 products as Hopper's tensor cores make them, beside what an H100 gave.

Recorded of `torch._scaled_mm` with fast sums, scales 1, in float32: rows of random codes [m, 608], of subnormals,
of mostly zeros, of one sign, of many exponents.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kernels import tensor_core
from kernels.linear import fp8
from kernels.quantized import FP8, Rows

RECORDED = Path(__file__).parent / "fp8_sums_h100.safetensors"


def test_sums_are_an_h100s_to_the_last_bit() -> None:
    given = load_file(RECORDED)
    a, b = given["a"].view(FP8), given["b"].view(FP8)
    assert torch.equal(tensor_core.fp8_sums(a, b), given["sums"])
    exact = (a.double() @ b.double().T).float()
    assert int((given["sums"] != exact).sum()) > exact.numel() // 2  # it takes more than to add


def test_sums_in_parts_are_added_in_float32() -> None:
    given = load_file(RECORDED)
    a, b = given["a"].view(FP8), given["b"].view(FP8)
    parts = [tensor_core.fp8_sums(a[:, i : i + 256], b[:, i : i + 256]) for i in range(0, a.shape[1], 256)]
    assert torch.equal(tensor_core.fp8_sums(a, b, 256), sum(parts[1:], parts[0]))


def test_zeros_sum_to_zero_and_small_beside_large_is_lost() -> None:
    a, b = torch.zeros(1, 64).to(FP8), torch.ones(16, 64).to(FP8)
    assert not tensor_core.fp8_sums(a, b).any()
    a = torch.zeros(1, 64)
    a[0, 0], a[0, 40] = 256, 2**-5
    assert bool((tensor_core.fp8_sums(a.to(FP8), b) == 256 + 2**-5).all())  # 13 bits below 2^8
    a[0, 40] = 2**-6
    assert bool((tensor_core.fp8_sums(a.to(FP8), b) == 256).all())


def test_other_operands_are_refused() -> None:
    with pytest.raises(ValueError, match="e4m3 codes"):
        tensor_core.fp8_sums(torch.zeros(2, 32), torch.zeros(2, 32))
    with pytest.raises(ValueError, match="e4m3 codes"):
        tensor_core.fp8_sums(torch.zeros(2, 32).to(FP8), torch.zeros(2, 64).to(FP8))


@pytest.mark.skipif(
    not (torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)),
    reason="needs a card of compute capability 9.0",
)
@pytest.mark.parametrize("k", [32, 544, 1536, 8960])
def test_this_cards_sums_are_so(k: int) -> None:
    spread = torch.linspace(-9, 6, 48).exp2()[:, None]  # from subnormals on
    a, b = ((torch.randn(48, k) * spread * 40).clamp(-448, 448).to(FP8).cuda() for _ in range(2))
    one = torch.ones(48, device="cuda")
    found = fp8.scaled_mm(Rows(a, one), Rows(b, one), None, True)
    assert torch.equal(found, tensor_core.fp8_sums(a, b).to(found.dtype))
