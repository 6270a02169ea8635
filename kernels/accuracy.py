"""How far a kernel's output is from its reference: what the tests, the self-test and the benchmarks measure."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import quantized, reference

BFLOAT16 = 4e-3  # largest relative error of a bfloat16 kernel against float32
FP8 = 4.5e-2  # the same of a kernel with e4m3 products
SAME_ARITHMETIC = 2e-3  # against a float64 emulation of the same quantised arithmetic
TOLERANCE = {torch.bfloat16: BFLOAT16, torch.float16: 1e-3, torch.float32: 1e-5}


def relative_error(out: Tensor, expected: Tensor) -> float:
    """||out - expected|| / ||expected|| in float64; NaN where out has one."""
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def listed(index: Tensor, blocks: int) -> Tensor:
    """An index list [..., kept] as a bool map [..., blocks]."""
    return torch.zeros(*index.shape[:-1], blocks, dtype=torch.bool, device=index.device).scatter_(
        -1, index.long(), True
    )


def sparse_linear_given(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, proj_weight: Tensor, proj_bias: Tensor | None
) -> Tensor:
    """The reference in float32 with the block map given.

    q, k, v: [b, L, h, d], q of whole query blocks or to the end of the sequence; index: [b, h, q_blocks, kept].
    Returns float32 [b, L, h, d].
    """
    q, k, v = (t.transpose(1, 2).float() for t in (q, k, v))
    keep = listed(index, -(-k.shape[2] // reference.K_BLOCK))
    bias = None if proj_bias is None else proj_bias.float()
    linear = F.linear(reference.linear_attention(q, k, v), proj_weight.float(), bias)
    return (reference.block_sparse_attention(q, k, v, keep) + linear).transpose(1, 2)


def worse_blocks(q: Tensor, k: Tensor, index: Tensor, topk: float) -> tuple[int, int]:
    """How many listed blocks the reference would not keep: (all, those that no near tie excuses).

    q, k: [b, L, h, d]. A sum in another order moves a score by a rounding; two roundings excuse a swap.
    """
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    keep = reference.block_map(q, k, topk)
    smooth_k = k - k.mean(dim=2, keepdim=True)
    pooled_q = reference.block_mean(q, reference.Q_BLOCK)
    score = (pooled_q @ reference.block_mean(smooth_k, reference.K_BLOCK).transpose(2, 3)).float()
    found = listed(index, keep.shape[-1])
    if not bool((found.sum(-1) == keep.sum(-1)).all()):
        return keep.numel(), keep.numel()  # another count, or a block listed twice
    slack = 2 * torch.finfo(q.dtype).eps * score.abs().amax(-1, keepdim=True)
    threshold = score.masked_fill(~keep, torch.inf).amin(-1, keepdim=True)
    other = found & ~keep
    return int(other.sum()), int((other & (score < threshold - slack)).sum())


def sparse_linear_8bit(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, proj_weight: Tensor, proj_bias: Tensor | None
) -> Tensor:
    """What the 8-bit kernel computes, in float64 from the same codes, with the block map given.

    As `sparse_linear_given`. Rounds where the kernel must: codes of q, k, v and of the weights, k's mean, phi(q)
    and the folded state.
    """
    brain = torch.float32 if q.dtype == torch.float32 else torch.bfloat16  # of the linear branch
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    d, length = q.shape[-1], k.shape[2]
    q_codes, q_scale = _int8(q.float() * (math.log2(math.e) / math.sqrt(d)), 1)
    smooth_k = (k.float() - k.float().mean(2, keepdim=True).to(k.dtype).float()).to(k.dtype).float()
    k_codes, k_scale = _int8(smooth_k, reference.K_BLOCK)
    v_scale = v.float().abs().amax(2, keepdim=True).clamp_min(1e-12) * (1 / quantized.FP8_MAX)
    v_codes = (v.float() * v_scale.reciprocal()).to(quantized.FP8).double()
    keep = listed(index, -(-length // reference.K_BLOCK)).repeat_interleave(reference.K_BLOCK, -1)[..., :length]

    phi_k = k.float().softmax(-1)
    state = phi_k.to(k.dtype).transpose(2, 3).double() @ v.double()
    folded = (state @ proj_weight.double().T).to(brain).double()
    e = (q.double() - q.double().amax(-1, keepdim=True)).exp()
    share = 1 / (1e-5 * e.sum(-1, keepdim=True) + e @ phi_k.double().sum(2)[..., None])
    out = (e * share).to(brain).double() @ folded
    if proj_bias is not None:
        out = out + proj_bias.double()
    for i in range(keep.shape[2]):
        rows = slice(i * reference.Q_BLOCK, (i + 1) * reference.Q_BLOCK)
        score = (q_codes[:, :, rows] @ k_codes.transpose(2, 3)).double() * (
            q_scale[:, :, rows] * k_scale.transpose(2, 3)
        ).double()
        score = score.masked_fill(~keep[:, :, i, None], -torch.inf)
        p = (score - score.amax(-1, keepdim=True).ceil() + 8).exp2()
        weights = p.float().to(quantized.FP8).double()
        out[:, :, rows] += weights @ v_codes / p.sum(-1, keepdim=True) * v_scale.double()
    return out.transpose(1, 2)


def attend_prompt(
    q: Tensor, q_weight: Tensor, eps: float, k: Tensor, v: Tensor, bias: Tensor, reach: Tensor
) -> Tensor:
    """What the kernel of `attend_prompt` computes for e4m3 rows, in float64: codes times scale, [b * L, C].

    As `elementwise.reference.attend_prompt`. Rounds where the kernel must: keys times the norm's weight, the keys'
    weights, codes. For keys that are read at once: in parts, weights round by the peak of those before.
    """
    heads = q.unflatten(2, (k.shape[2], -1)).double()
    factor = (q.double().square().mean(2) + eps).rsqrt()[:, None, :, None]
    key = (k.float() * q_weight.float().view(k.shape[2:])).to(k.dtype).double()
    score = heads.transpose(1, 2) @ key.permute(0, 2, 3, 1) * factor / math.sqrt(k.shape[3])
    score = score + bias.double()[:, None, None]
    p = (score - score.amax(-1, keepdim=True)).exp()
    out = p.to(v.dtype).double() @ v.double().transpose(1, 2) / p.sum(-1, keepdim=True)
    scale = (reach.clamp_min(1e-12) * (1 / quantized.FP8_MAX))[:, None, None, None]
    codes = (out * scale.reciprocal()).float().to(quantized.FP8).double()
    return (codes * scale).transpose(1, 2).flatten(2).flatten(0, 1)


def _int8(x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Codes (float32) of x [b, h, L, d] by blocks of rows, a scale for each row [b, h, L, 1]: see `Operands`."""
    length = x.shape[2]
    padded = F.pad(x, (0, 0, 0, -length % rows)).unflatten(2, (-1, rows))
    scale = padded.abs().amax((3, 4), keepdim=True).clamp_min(1e-12) * (1 / quantized.INT8_MAX)
    scale = ((scale.view(torch.int32) + 0xFFFF) & -65536).view(torch.float32)  # up to an 8-bit mantissa
    # The kernel's product is not rounded before it is rounded to a code: one operation.
    codes = (padded.double() * scale.reciprocal().double()).round().float().flatten(2, 3)[:, :, :length]
    return codes, scale.expand(-1, -1, -1, rows, 1).flatten(2, 3)[:, :, :length]
