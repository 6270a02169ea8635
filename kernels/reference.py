"""What every kernel must compute, in plain torch. Slow, readable, the judge of the fast ones."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Q_BLOCK = 128
K_BLOCK = 64
WEIGHT_BLOCK = 128


def block_mean(x: Tensor, block: int) -> Tensor:
    """Mean over blocks of rows of [b, h, L, d]; float32 sum, result in x's dtype.

    A tail block's mean divides by its real rows. Returns [b, h, ceil(L / block), d].
    """
    length = x.shape[2]
    blocks = -(-length // block)
    padded = F.pad(x.float(), (0, 0, 0, blocks * block - length)).unflatten(2, (blocks, block))
    rows = torch.full((blocks, 1), float(block), device=x.device)
    rows[-1] = length - (blocks - 1) * block
    return (padded.sum(3) / rows).to(x.dtype)


def block_map(q: Tensor, k: Tensor, topk: float, q_block: int = Q_BLOCK, k_block: int = K_BLOCK) -> Tensor:
    """Which key blocks each query block attends to.

    q, k: [b, h, L, d] after RoPE. k is smoothed (its mean over the sequence removed), both are pooled
    to block means, and the best max(1, int(topk * key_blocks)) key blocks by dot product are kept.
    Returns bool [b, h, q_blocks, k_blocks]. Source: SLA (Zhang et al. 2025), section 4; TurboDiffusion.
    """
    smooth_k = k - k.mean(dim=2, keepdim=True)
    score = block_mean(q, q_block) @ block_mean(smooth_k, k_block).transpose(2, 3)
    keep = max(1, int(topk * score.shape[-1]))
    index = score.topk(keep, dim=-1).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, index, True)


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, q_block: int = Q_BLOCK, k_block: int = K_BLOCK
) -> Tensor:
    """Softmax attention over the kept blocks only. q, k, v [b, h, L, d]; keep [b, h, q_blocks, k_blocks]."""
    out = torch.empty_like(q)
    for i in range(keep.shape[2]):
        rows = slice(i * q_block, min((i + 1) * q_block, q.shape[2]))
        mask = keep[:, :, i].repeat_interleave(k_block, dim=-1)[..., None, : k.shape[2]]
        score = q[:, :, rows].float() @ k.float().transpose(2, 3) / math.sqrt(q.shape[-1])
        p = score.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        out[:, :, rows] = (p @ v.float()).to(out.dtype)
    return out


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """phi(q) (phi(k)^T v) / (1e-5 + phi(q) . sum phi(k)) with phi = softmax over head_dim; all keys.

    q, k, v: [b, h, L, d]; returns float32 [b, h, L, d]. Source: SLA (Zhang et al. 2025), section 4.
    """
    phi_q, phi_k = q.float().softmax(-1), k.float().softmax(-1)
    state = phi_k.transpose(2, 3) @ v.float()
    norm = phi_q @ phi_k.sum(dim=2, keepdim=True).transpose(2, 3)
    return phi_q @ state / (1e-5 + norm)


def sparse_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor | None, topk: float
) -> Tensor:
    """Sparse-linear attention: o = o_sparse + proj_l(o_linear).

    q, k, v: [b, L, h, d] after RoPE; proj_weight [d, d], proj_bias [d]: one projection per layer, shared
    by its heads. Returns [b, L, h, d] in q's dtype. Source: SLA (Zhang et al. 2025).
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    sparse = block_sparse_attention(q, k, v, block_map(q, k, topk))
    linear = F.linear(linear_attention(q, k, v), proj_weight.float(), _float(proj_bias))
    return (sparse.float() + linear).to(q.dtype).transpose(1, 2)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


def quantize_blocks(x: Tensor, block: int = WEIGHT_BLOCK) -> tuple[Tensor, Tensor]:
    """int8 codes and one scale per block x block tile: scale = amax / 128, code = round(x / scale).

    x: [m, n] float. Returns int8 [m, n] and float32 [ceil(m / block), ceil(n / block)]. Used for the
    weights of 8-bit checkpoints and for activations at run time (TurboDiffusion).
    """
    m, n = x.shape
    rows, columns = -(-m // block), -(-n // block)
    padded = F.pad(x.float(), (0, columns * block - n, 0, rows * block - m))
    tiles = padded.unflatten(1, (columns, block)).unflatten(0, (rows, block))  # [rows, b, columns, b]
    scale = tiles.abs().amax(dim=(1, 3)).clamp_min(1e-12) / 128
    codes = (tiles / scale[:, None, :, None]).round().clamp(-128, 127).to(torch.int8)
    return codes.flatten(2, 3).flatten(0, 1)[:m, :n].contiguous(), scale


def dequantize_blocks(codes: Tensor, scale: Tensor, block: int = WEIGHT_BLOCK) -> Tensor:
    """The float32 [m, n] that int8 codes [m, n] and their tile scales stand for."""
    wide = scale.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return codes.float() * wide[: codes.shape[0], : codes.shape[1]]


def int8_linear(x: Tensor, int8_weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias with both operands in int8 by tiles of 128 x 128.

    x: [m, in]; int8_weight: [out, in] int8; scale: [ceil(out / 128), ceil(in / 128)]; bias: [out].
    Returns [m, out] in x's dtype.
    """
    codes, x_scale = quantize_blocks(x)
    y = dequantize_blocks(codes, x_scale) @ dequantize_blocks(int8_weight, scale).T
    if bias is not None:
        y = y + bias.float()
    return y.to(x.dtype)
