"""Which of the fast products runs: torch's own where nothing is to be fused and it is faster, else ours."""

import torch
from torch import Tensor

from kernels.linear import fp8, gemm
from kernels.linear.reach import bound
from kernels.linear.weights import Tiles
from kernels.quantized import Rows
from kernels.tuning import linear as tuning


def linear(
    x: Rows,
    weight: Rows | Tiles,
    bias: Tensor | None,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`kernels.linear.reference.linear` on a card."""
    plain = not gelu and residual is None and gate is None
    if plain and tuning.PLAIN_BY_TORCH and isinstance(weight, Rows) and fp8.obstacle(x, weight, dtype) is None:
        return fp8.scaled_mm(x, weight, bias, x.codes.shape[1] <= tuning.LONGEST_FAST_SUM)
    return gemm.linear(x, weight, bias, gelu=gelu, residual=residual, gate=gate, dtype=dtype)


def linear_gelu_rows(x: Rows, weight: Rows, bias: Tensor | None, reach: Tensor) -> Rows:
    """`kernels.linear.reference.linear_gelu_rows` on a card."""
    return gemm.linear_gelu_rows(x, weight, bias, bound(x, reach))
