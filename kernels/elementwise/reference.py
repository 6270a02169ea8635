"""The element-wise work in plain torch: the same functions as `kernels.elementwise.fused`, and differentiable.

x is [b, L, C] throughout. Where `quantize` names float8_e4m3fn or int8 the result is Rows of [b * L, C], quantised
from float32; otherwise it is [b, L, C] in x's dtype.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.quantized import FP8, FP8_MAX, Rows, quantize_rows


@dataclass(frozen=True)
class Modulation:
    """LayerNorm(x) * (1 + scale) + shift, in float32. scale, shift: float32 [b, C]."""

    scale: Tensor
    shift: Tensor
    eps: float


@dataclass(frozen=True)
class Affine:
    """LayerNorm(x) * weight + bias. weight, bias: [C]."""

    weight: Tensor
    bias: Tensor
    eps: float


def norm(x: Tensor, how: Modulation | Affine, quantize: torch.dtype | None = None) -> Tensor | Rows:
    """x normalised over its channels. Source: Wan2.1."""
    if quantize is not None:
        return quantize_rows(_norm(x.float(), how).flatten(0, 1), quantize)
    return _norm(x, how)


def gate_residual(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """x + y * gate, the product rounded to x's dtype. gate: float32 [b, C]; None: x + y."""
    return x + (y if gate is None else (y * gate[:, None]).to(x.dtype))


def gate_residual_norm(
    x: Tensor, y: Tensor | None, gate: Tensor | None, how: Modulation | Affine, quantize: torch.dtype | None = None
) -> tuple[Tensor, Tensor | Rows]:
    """`gate_residual` and the `norm` of what it gives: the residual stream goes on. y None: nothing is added."""
    if y is not None:
        x = gate_residual(x, y, gate)
    return x, norm(x, how, quantize)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean of squares over C + eps) * weight."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def rms_norm_rope(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, table: Tensor, heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    """`rms_norm` over all channels, rounded; then interleaved channel pairs of each head rotated in float32.

    q, k: [b, L, C], views of a packed product too; table: float32 [2, L, 1, C / heads / 2] as (cos, sin).
    Returns [b, L, heads, d] twice.
    """
    q, k = rms_norm(q, q_weight, eps), rms_norm(k, k_weight, eps)
    return apply_rope(q.unflatten(2, (heads, -1)), table), apply_rope(k.unflatten(2, (heads, -1)), table)


def gelu(x: Tensor, quantize: torch.dtype | None = None) -> Tensor | Rows:
    """GELU in its tanh form. x: [..., n]; Rows have the leading dimensions flattened."""
    if quantize is not None:
        return quantize_rows(F.gelu(x.float(), approximate="tanh").flatten(0, -2), quantize)
    return F.gelu(x, approximate="tanh")


def quantize(x: Tensor, dtype: torch.dtype) -> Rows:
    """Rows of x [..., n], the leading dimensions flattened."""
    return quantize_rows(x.flatten(0, -2), dtype)


def attend_few(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention of q [b, L, h, d] to few keys k, v [b, n, h, d]; bias: float32 [b, n], added to the scores.

    The bias is natural: log(m) makes a key count as m. Returns [b, L, h, d] in q's dtype.
    """
    mask = None if bias is None else bias[:, None, None].to(q.dtype)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def attend_prompt(
    q: Tensor,
    q_weight: Tensor,
    eps: float,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    reach: Tensor | None = None,
    quantize: torch.dtype | None = None,
) -> Tensor | Rows:
    """`attend_few` of RMSNorm(q), q [b, L, C], to k and v [b, n, h, C / h]. Returns [b, L, C] or Rows [b * L, C].

    reach: float32 [b], the largest magnitude of v. What attends lies within it, so e4m3 rows take reach / 448 for
    their scale, known before the row is; without it, and in int8, a row's own largest magnitude.
    """
    heads = rms_norm(q, q_weight, eps).unflatten(2, (k.shape[2], -1))
    out = attend_few(heads, k, v, bias).flatten(2)
    if quantize is None:
        return out
    if reach is None or quantize != FP8:
        return quantize_rows(out.flatten(0, 1), quantize)
    scale = (reach.clamp_min(1e-12) * (1 / FP8_MAX)).repeat_interleave(q.shape[1])
    return Rows((out.flatten(0, 1).float() * scale.reciprocal()[:, None]).to(FP8), scale)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved channel pairs of x [b, L, heads, head_dim]; float32 inside, x's dtype out."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def _norm(x: Tensor, how: Modulation | Affine) -> Tensor:
    if isinstance(how, Affine):
        dtype = torch.promote_types(x.dtype, how.weight.dtype)  # float32 rows that are to be quantised stay so
        return F.layer_norm(x, x.shape[-1:], how.weight.to(dtype), how.bias.to(dtype), how.eps)
    y = F.layer_norm(x.float(), x.shape[-1:], eps=how.eps)
    return (y * (1 + how.scale[:, None]) + how.shift[:, None]).to(x.dtype)
