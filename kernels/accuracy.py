"""How far a kernel's output is from its reference: what the tests, the self-test and the benchmarks measure."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import reference

BFLOAT16 = 4e-3  # largest relative error of a bfloat16 kernel against float32
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
