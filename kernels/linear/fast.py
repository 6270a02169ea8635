"""Which of the fast products runs: torch's own or one of ours, as `kernels.tuning.linear` says for its ends."""

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
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`kernels.linear.reference.linear` on a card."""
    way = tuning.way(x.codes.device, gemm.kind_of(weight), "plain")
    if isinstance(way, tuning.Torch):
        if isinstance(weight, Rows) and fp8.obstacle(x, weight, dtype) is None:
            return fp8.scaled_mm(x, weight, bias, way.fast)
        way = None
    if isinstance(way, tuning.GemmHopper) and dtype != torch.bfloat16:
        way = None
    return gemm.linear(x, weight, bias, dtype=dtype, config=way)


def linear_gelu_rows(x: Rows, weight: Rows, bias: Tensor | None, reach: Tensor) -> Rows:
    """`kernels.linear.reference.linear_gelu_rows` on a card."""
    way = tuning.way(x.codes.device, gemm.kind_of(weight), "codes")
    return gemm.linear_gelu_rows(x, weight, bias, bound(x, reach), None if isinstance(way, tuning.Torch) else way)
