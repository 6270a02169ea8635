"""Sparse-linear attention forward: softmax over the kept key blocks plus a projected linear branch over all keys.

Computes what `kernels.reference.sparse_linear_attention` does. The linear branch's phi(k)^T v is summed once per
head with proj_l folded in (the projection is linear, so this is exact), and added where the sparse pass writes.
"""

# pyright: reportCallIssue=false
# (a launch takes num_warps, which Triton's types do not know)
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.block_map import block_index, index_of_means
from kernels.attention.operands import Moments, Operands, moments, operands
from kernels.attention.sparse_8bit import sparse_attention_8bit
from kernels.reference import K_BLOCK, Q_BLOCK
from kernels.tuning import sparse_linear as tuning

HEAD_DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

LOG2E = tl.constexpr(math.log2(math.e))
EPSILON = tl.constexpr(1e-5)
CHUNK = tl.constexpr(32)  # channels of the folded state in shared memory at a time


# Lengths and counts are not specialised: a new size must not cost a compilation in the middle of a render.
@triton.jit(do_not_specialize=["length", "heads"])
def accumulate_state(
    k, v, state, norm, length, heads, k_batch, k_row, k_head, v_batch, v_row, v_head,
    PRECISION: tl.constexpr, SPLIT: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """phi(k)^T v and the sum of phi(k) over SPLIT keys, phi = softmax over channels.

    k, v [b, L, h, d] by strides; state [b * h, splits, d, d] and norm [b * h, splits, d], float32.
    """
    part, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, DIM)
    first = part.to(tl.int64) * SPLIT
    k += (bh // heads) * k_batch + (bh % heads) * k_head + first * k_row
    v += (bh // heads) * v_batch + (bh % heads) * v_head + first * v_row
    rows = tl.minimum(length - first, SPLIT).to(tl.int32)
    total = tl.zeros((DIM, DIM), tl.float32)
    weight = tl.zeros((DIM,), tl.float32)
    for start in tl.range(0, rows, KEYS, num_stages=STAGES):
        row = start + tl.arange(0, KEYS)
        real = row[:, None] < rows
        key = tl.load(k + row[:, None] * k_row + channel[None, :], mask=real, other=0.0).to(tl.float32)
        value = tl.load(v + row[:, None] * v_row + channel[None, :], mask=real, other=0.0)
        e = tl.exp2((key - tl.max(key, 1)[:, None]) * LOG2E)
        phi = tl.where(real, e / tl.sum(e, 1)[:, None], 0.0)
        weight += tl.sum(phi, 0)
        total = tl.dot(tl.trans(phi.to(value.dtype)), value, total, input_precision=PRECISION)
    at = bh * tl.num_programs(0) + part
    tl.store(norm + at * DIM + channel, weight)
    tl.store(state + at * DIM * DIM + channel[:, None] * DIM + channel[None, :], total)


@triton.jit
def fold_keys(
    out, peak, total, q, k, v, first, length, k_row, v_row, scale,
    PRECISION: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax: KEYS keys from row `first`. peak is in units of log2."""
    row, channel = tl.arange(0, KEYS), tl.arange(0, DIM)
    k_at = k + first * k_row + row[:, None] * k_row + channel[None, :]
    v_at = v + first * v_row + row[:, None] * v_row + channel[None, :]
    if TAIL:
        real = row < length - first
        key = tl.load(k_at, mask=real[:, None], other=0.0)
        value = tl.load(v_at, mask=real[:, None], other=0.0)
        score = tl.dot(q, tl.trans(key), input_precision=PRECISION)
        score = tl.where(real[None, :], score, float("-inf"))
    else:
        key = tl.load(k_at)
        value = tl.load(v_at)
        score = tl.dot(q, tl.trans(key), input_precision=PRECISION)
    higher = tl.maximum(peak, tl.max(score, 1) * scale)
    p = tl.exp2(score * scale - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(p, 1)
    out = tl.dot(p.to(value.dtype), value, out * shrink[:, None], input_precision=PRECISION)
    return out, higher, total


@triton.jit(do_not_specialize=["q_length", "k_length", "heads", "keep"])
def attend(
    q, k, v, index, state, norm, bias, o, q_length, k_length, heads, keep, scale,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    BIAS: tl.constexpr, PRECISION: tl.constexpr, Q_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """QUERIES rows of the output: online softmax over the kept key blocks, then the linear branch added.

    q, k, v [b, L, h, d] by strides; index [b * h, q_blocks, keep] ascending; state [b * h, d, d] float32,
    proj_l folded in; norm [b * h, d] float32; bias [d] float32; o [b, L, h, d] contiguous.
    scale: log2(e) / sqrt(d).
    """
    tile, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = bh // heads, bh % heads
    start = tile.to(tl.int64) * QUERIES
    row, channel = tl.arange(0, QUERIES), tl.arange(0, DIM)
    real = row[:, None] < q_length - start
    q += batch * q_batch + head * q_head + start * q_row
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    query = tl.load(q + row[:, None] * q_row + channel[None, :], mask=real, other=0.0)

    # phi(q) / (1e-5 + phi(q) . norm) = e * share, with e = exp(q - top): no division by the sum of e is left.
    wide = query.to(tl.float32)
    top = tl.max(wide, 1)
    e = tl.exp2((wide - top[:, None]) * LOG2E)
    weight = tl.load(norm + bh * DIM + channel)
    share = 1.0 / (EPSILON * tl.sum(e, 1) + tl.sum(e * weight[None, :], 1))

    blocks = tl.cdiv(q_length, Q_BLOCK)
    index += (bh * blocks + start // Q_BLOCK) * keep
    out = tl.zeros((QUERIES, DIM), tl.float32)
    peak = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    STEPS: tl.constexpr = K_BLOCK // KEYS
    # The list ascends, so only its last block can be the sequence's tail: no other pays for a mask.
    for i in tl.range(0, (keep - 1) * STEPS, num_stages=STAGES):
        first = tl.load(index + i // STEPS).to(tl.int64) * K_BLOCK + (i % STEPS) * KEYS
        out, peak, total = fold_keys(
            out, peak, total, query, k, v, first, k_length, k_row, v_row, scale, PRECISION, KEYS, DIM, False
        )
    last = tl.load(index + keep - 1).to(tl.int64) * K_BLOCK
    for step in tl.static_range(STEPS):
        first = last + step * KEYS
        out, peak, total = fold_keys(
            out, peak, total, query, k, v, first, k_length, k_row, v_row, scale, PRECISION, KEYS, DIM, True
        )
    out = out / total[:, None]

    state += bh * DIM * DIM
    for c in tl.range(0, DIM, CHUNK, num_stages=1):
        part = c + tl.arange(0, CHUNK)
        some = tl.load(q + row[:, None] * q_row + part[None, :], mask=real, other=0.0).to(tl.float32)
        phi = tl.exp2((some - top[:, None]) * LOG2E) * share[:, None]
        folded = tl.load(state + part[:, None] * DIM + channel[None, :])
        out = tl.dot(phi, folded, out, input_precision=PRECISION)
    if BIAS:
        out += tl.load(bias + channel)[None, :]
    o += ((batch * q_length + start) * heads + head) * DIM
    tl.store(o + row[:, None] * (heads * DIM) + channel[None, :], out.to(o.dtype.element_ty), mask=real)


def linear_state(k: Tensor, v: Tensor, config: tuning.State) -> tuple[Tensor, Tensor]:
    """phi(k)^T v and the sum of phi(k) over all keys.

    k, v: [b, L, h, d], last stride 1. Returns float32 [b, h, d, d] and [b, h, d]. The keys are summed in parts
    of `config.split`, the parts in order: the same bits every time.
    """
    b, length, h, d = k.shape
    parts = -(-length // config.split)
    state = torch.empty((b * h, parts, d, d), dtype=torch.float32, device=k.device)
    norm = torch.empty((b * h, parts, d), dtype=torch.float32, device=k.device)
    accumulate_state[(parts, b * h)](
        k,
        v,
        state,
        norm,
        length,
        h,
        *k.stride()[:3],
        *v.stride()[:3],
        PRECISION=_precision(k.dtype),
        SPLIT=config.split,
        KEYS=config.keys,
        STAGES=config.stages,
        DIM=d,
        num_warps=config.warps,
    )
    return state.sum(1).view(b, h, d, d), norm.sum(1).view(b, h, d)


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    folded: Tensor,
    norm: Tensor,
    bias: Tensor | None,
    config: tuning.Attend,
) -> Tensor:
    """Softmax attention over the listed key blocks, plus phi(q) folded / (1e-5 + phi(q) . norm) + bias.

    q, k, v: [b, L, h, d], last stride 1. index: int32 [b, h, q_blocks, kept], ascending. folded: float32
    [b, h, d, d], the linear state times proj_l's weight. norm: float32 [b, h, d]. bias: float32 [d].
    Returns [b, L, h, d] in q's dtype.
    """
    b, length, h, d = q.shape
    out = torch.empty((b, length, h, d), dtype=q.dtype, device=q.device)
    attend[(-(-length // config.queries), b * h)](
        q,
        k,
        v,
        index,
        folded,
        norm,
        norm if bias is None else bias,
        out,
        length,
        k.shape[1],
        h,
        index.shape[3],
        LOG2E.value / math.sqrt(d),
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        BIAS=bias is not None,
        PRECISION=_precision(q.dtype),
        Q_BLOCK=Q_BLOCK,
        K_BLOCK=K_BLOCK,
        QUERIES=config.queries,
        KEYS=config.keys,
        STAGES=config.stages,
        DIM=d,
        num_warps=config.warps,
    )
    return out


def fold_projection(state: Tensor, proj_weight: Tensor) -> Tensor:
    """(phi(q) state) W^T = phi(q) (state W^T). state: float32 [b, h, d, d]; proj_weight [d, d]. Float32."""
    return (state @ proj_weight.float().T).contiguous()


def _precision(dtype: torch.dtype) -> str:
    # Three TF32 products make a float32 one; 16-bit inputs are exact in TF32.
    return "tf32x3" if dtype == torch.float32 else "tf32"


def sparse_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    topk: float,
    arithmetic: tuning.Arithmetic | None = None,
) -> Tensor:
    """Sparse-linear attention: o = o_sparse + proj_l(o_linear). Forward only.

    q, k, v: [b, L, h, d] after RoPE, one of DTYPES, d one of HEAD_DIMS; proj_weight [d, d], proj_bias [d].
    arithmetic: "8bit" has int8 scores and e4m3 values (16-bit inputs on compute capability 8.9 or later), "bf16"
    the products of the input's own dtype; None takes what `kernels.tuning` says is faster on this card.
    Returns [b, L, h, d] in q's dtype. Raises ValueError for another dtype or head_dim, for unlike shapes, or where
    the card has no 8-bit products of them. Source: SLA (Zhang et al. 2025).
    """
    d = q.shape[-1]
    if d not in HEAD_DIMS or q.dtype not in DTYPES or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"sparse-linear attention takes head_dim {HEAD_DIMS} and one of {DTYPES}, got {d}, {q.dtype}"
        )
    if not q.shape == k.shape == v.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k and v of self-attention have one shape, got {shapes}")
    q, k, v = (t if t.stride(3) == 1 else t.contiguous() for t in (q, k, v))
    with torch.cuda.device_of(q):  # Triton launches on the current device
        if (arithmetic or tuning.faster(q.device, q.dtype)) == "8bit":
            return _in_8_bits(q, k, v, proj_weight, proj_bias, topk, tuning.of_device_8bit(q.device, d, q.dtype))
        config = tuning.of_device(q.device, d, q.dtype)
        index = block_index(q, k, topk)
        state, norm = linear_state(k, v, config.state)
        bias = None if proj_bias is None else proj_bias.float().contiguous()
        return sparse_attention(q, k, v, index, fold_projection(state, proj_weight), norm, bias, config.attend)


@dataclass(frozen=True)
class Prepared:
    """What the 8-bit sparse pass takes beside q and the bias. index: int32 [b, h, q_blocks, kept], ascending."""

    moments: Moments
    operands: Operands
    index: Tensor


def prepare_8bit(
    q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, topk: float, config: tuning.Config8
) -> Prepared:
    """Everything that comes before the 8-bit sparse pass. q, k, v: [b, L, h, d], last stride 1."""
    sums = moments(k, v, proj_weight, config.survey)
    ready = operands(q, k, v, sums, config.quantize)
    return Prepared(sums, ready, index_of_means(ready.pooled_q, ready.pooled_k, -(-k.shape[1] // K_BLOCK), topk))


def _in_8_bits(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    topk: float,
    config: tuning.Config8,
) -> Tensor:
    ready = prepare_8bit(q, k, v, proj_weight, topk, config)
    bias = None if proj_bias is None else proj_bias.contiguous()
    return attend_8bit(q, ready, bias, config.attend)


def attend_8bit(
    q: Tensor,
    ready: Prepared,
    bias: Tensor | None,
    config: tuning.Attend8 | tuning.AttendHopper,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The 8-bit sparse pass by the kernel that a configuration is of, in a dtype or q's. bias: [d], contiguous."""
    if isinstance(config, tuning.Attend8):
        return sparse_attention_8bit(q, ready.operands, ready.moments, ready.index, bias, config, dtype)
    from kernels.attention.sparse_gluon import sparse_attention_gluon  # Gluon is experimental: only where asked for

    return sparse_attention_gluon(q, ready.operands, ready.moments, ready.index, bias, config, dtype)
