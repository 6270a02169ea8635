"""What the 8-bit linear kernels must compute, in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.linear.weights import Tiles
from kernels.quantized import FP8, FP8_MAX, Rows


def linear(
    x: Rows,
    weight: Rows | Tiles,
    bias: Tensor | None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    exact: bool = False,
) -> Tensor:
    """x W^T + bias, float32 inside.

    x: codes [m, k]; weight: codes [n, k]; bias [n]. Returns [m, n] in `dtype`.
    exact: in float64, to judge kernels by.
    """
    kind = torch.float64 if exact else torch.float32
    y = F.linear(x.float().to(kind), weight.float().to(kind), None if bias is None else bias.to(kind))
    return y.to(kind if exact else dtype)


def linear_gelu_rows(x: Rows, weight: Rows, bias: Tensor | None, reach: Tensor) -> Rows:
    """gelu(x W^T + bias) in fp8, each row by a scale that is known before the product: `reach`'s. See `bound`."""
    scale = bound(x, reach)
    y = F.gelu(linear(x, weight, bias, dtype=torch.float32), approximate="tanh")
    return Rows((y * scale.reciprocal()[:, None]).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale)


def reach(weight: Rows, bias: Tensor | None) -> Tensor:
    """How far a linear layer can take its input: float32 [largest norm of a weight row, largest |bias|]."""
    norm = (weight.codes.float().square().sum(1).sqrt() * weight.scale).amax()
    most = torch.zeros_like(norm) if bias is None else bias.float().abs().amax()
    return torch.stack([norm, most])


def bound(x: Rows, reach: Tensor) -> Tensor:
    """A scale for every row of x W^T + bias that no element exceeds: float32 [m].

    |y| <= |x| |w| + |b| (Cauchy-Schwarz). It lies some ten times above a row's largest element: that costs
    e4m3, a floating format of 17 binades, three of its smallest and no precision (int8 it would ruin).
    """
    norm = x.codes.float().square().sum(1).sqrt() * x.scale
    return (norm * reach[0] + reach[1]).clamp_min(1e-12) / FP8_MAX
