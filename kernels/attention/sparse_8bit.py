"""The sparse pass with 8-bit products: int8 scores, e4m3 weights and values, float32 between them.

`kernels.attention.operands` makes what it multiplies; `kernels.accuracy.sparse_linear_8bit` is its arithmetic in
torch.
"""

# pyright: reportCallIssue=false
# (a launch takes num_warps, which Triton's types do not know)
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.operands import Moments, Operands, e4m3
from kernels.reference import K_BLOCK, Q_BLOCK
from kernels.tuning.sparse_linear import Attend8

LOG2E = tl.constexpr(math.log2(math.e))
EPSILON = tl.constexpr(1e-5)
RAISE = tl.constexpr(8.0)  # weights are 2^8 at the row's peak: e4m3 holds 2^-9 to 448
# An int32 s of less than 2^22 added to these bits is the float 1.5 * 2^23 + s: an addition instead of a conversion.
ORIGIN_BITS = tl.constexpr(0x4B400000)
ORIGIN = tl.constexpr(12582912.0)


@triton.jit
def load_step(k, v, k_scale, first, second, KEYS: tl.constexpr, K_BLOCK: tl.constexpr, DIM: tl.constexpr):
    """Keys [KEYS, DIM], values [DIM, KEYS] and the scales of one block, or of two: [2]."""
    lane, channel = tl.arange(0, KEYS), tl.arange(0, DIM)
    block = tl.where(lane < K_BLOCK, first, second)
    key_at = block * (K_BLOCK * DIM) + lane % K_BLOCK * DIM
    key = tl.load(k + key_at[:, None] + channel[None, :])
    value_at = tl.max_contiguous(tl.multiple_of(block * (K_BLOCK * DIM) + lane % K_BLOCK, K_BLOCK), K_BLOCK)
    value = tl.load(v + channel[:, None] * K_BLOCK + value_at[None, :])
    if KEYS == K_BLOCK:
        scale = tl.load(k_scale + first)
    else:
        scale = tl.load(k_scale + tl.where(tl.arange(0, KEYS // K_BLOCK) == 0, first, second))
    return key, value, scale


@triton.jit
def in_fragments(p, ROWS: tl.constexpr, KEYS: tl.constexpr):
    """Columns in the order in which values lie: what a thread has of a product it then holds of an operand.

    The accumulator gives a thread columns 2c, 2c + 1, 2c + 8, 2c + 9 of 16; an 8-bit operand wants 4c to 4c + 3.
    """
    return p.reshape(ROWS, KEYS // 16, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(ROWS, KEYS)


@triton.jit
def fold_step(
    out, peak, total, query, row_scale, key, value, scale, real,
    TAIL: tl.constexpr, MAGIC: tl.constexpr, STAND_IN: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, K_BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax. peak is in units of log2 and whole, so that every rescaling is exact."""
    PARTS: tl.constexpr = KEYS // K_BLOCK
    score = tl.dot(query, tl.trans(key), out_dtype=tl.int32)
    if PARTS == 1:
        by_part = row_scale * scale  # [ROWS]
        factor = by_part[:, None]
    else:
        by_part = row_scale[:, None] * scale[None, :]  # [ROWS, PARTS]
        factor = tl.broadcast_to(by_part[:, :, None], (ROWS, PARTS, K_BLOCK)).reshape(ROWS, KEYS)
    if TAIL:
        x = tl.where(real[None, :], score.to(tl.float32) * factor, float("-inf"))
        higher = tl.maximum(peak, tl.ceil(tl.max(x, 1)))
        p = tl.exp2(x - (higher - RAISE)[:, None])
    else:
        if PARTS == 1:
            best = tl.max(score, 1).to(tl.float32) * by_part
        else:
            best = tl.max(tl.max(score.reshape(ROWS, PARTS, K_BLOCK), 2).to(tl.float32) * by_part, 1)
        higher = tl.maximum(peak, tl.ceil(best))
        if MAGIC:
            # Scales have 8-bit mantissas and peaks are whole: origin * factor + peak is exact, and the compiler
            # makes the other product and the difference one operation.
            away = (score + ORIGIN_BITS).to(tl.float32, bitcast=True)
            p = tl.exp2(away * factor - (ORIGIN * factor + (higher - RAISE)[:, None]))
        else:
            p = tl.exp2(score.to(tl.float32) * factor - (higher - RAISE)[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(p, 1)
    codes = in_fragments(e4m3(p, STAND_IN), ROWS, KEYS)
    if STAND_IN:
        out = out * shrink[:, None] + tl.dot(codes.to(tl.float32), tl.trans(value).to(tl.float32))
    else:
        out = out * shrink[:, None] + tl.dot(codes, tl.trans(value))
    return out, higher, total


# Lengths and counts are not specialised: a new size must not cost a compilation in the middle of a render.
@triton.jit(do_not_specialize=["length", "heads", "keep"])
def attend_8bit(
    q, q_codes, q_scale, k_codes, k_scale, v_codes, v_scale, index, folded, norm, bias, o,
    length, heads, keep, q_batch, q_row, q_head,
    BIAS: tl.constexpr, Q_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, MAGIC: tl.constexpr,
    STAND_IN: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """QUERIES rows of the output: online softmax over the kept key blocks, then the linear branch added.

    q [b, L, h, d] by strides, for the linear branch. Operands as `operands.Operands` and `operands.Moments` have
    them; index [b * h, q_blocks, keep] ascending; bias [d]; o [b, L, h, d] contiguous.
    """
    tile, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = bh // heads, bh % heads
    start = tile.to(tl.int64) * QUERIES
    row, channel = tl.arange(0, QUERIES), tl.arange(0, DIM)
    blocks = tl.cdiv(length, Q_BLOCK)
    padded = blocks.to(tl.int64) * Q_BLOCK
    q_codes += (bh * padded + start) * DIM
    k_codes += bh * padded * DIM
    v_codes += bh * padded * DIM
    k_scale += bh * (padded // K_BLOCK)
    index += (bh * blocks + start // Q_BLOCK) * keep
    query = tl.load(q_codes + row[:, None] * DIM + channel[None, :])
    row_scale = tl.load(q_scale + bh * padded + start + row)

    out = tl.zeros((QUERIES, DIM), tl.float32)
    peak = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    SPAN: tl.constexpr = KEYS // K_BLOCK
    # The list ascends, so only its last block can be the sequence's tail: no other step pays for a mask.
    full = (keep - 1) // SPAN
    for i in tl.range(0, full, num_stages=STAGES):
        first = tl.load(index + i * SPAN)
        second = tl.load(index + i * SPAN + SPAN - 1)
        key, value, scale = load_step(k_codes, v_codes, k_scale, first, second, KEYS, K_BLOCK, DIM)
        out, peak, total = fold_step(
            out, peak, total, query, row_scale, key, value, scale, row,
            False, MAGIC, STAND_IN, QUERIES, KEYS, K_BLOCK,
        )  # fmt: skip
    last = tl.load(index + keep - 1)
    first = tl.load(index + full * SPAN)  # the last one again where no other is left
    key, value, scale = load_step(k_codes, v_codes, k_scale, first, last, KEYS, K_BLOCK, DIM)
    lane = tl.arange(0, KEYS)
    final = lane >= KEYS - K_BLOCK
    real = tl.where(final, last * K_BLOCK + lane % K_BLOCK < length, keep - full * SPAN == SPAN)
    out, peak, total = fold_step(
        out, peak, total, query, row_scale, key, value, scale, real,
        True, MAGIC, STAND_IN, QUERIES, KEYS, K_BLOCK,
    )  # fmt: skip
    out = out * (1.0 / total)[:, None] * tl.load(v_scale + bh * DIM + channel)[None, :]

    # phi(q) / (1e-5 + phi(q) . norm) = e * share, with e = exp(q - top): no division by the sum of e is left.
    inside = row[:, None] < length - start
    q += batch * q_batch + head * q_head + start * q_row
    wide = tl.load(q + row[:, None] * q_row + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    e = tl.exp2((wide - tl.max(wide, 1)[:, None]) * LOG2E)
    weight = tl.load(norm + bh * DIM + channel)
    share = 1.0 / (EPSILON * tl.sum(e, 1) + tl.sum(e * weight[None, :], 1))
    state = tl.load(folded + bh * DIM * DIM + channel[:, None] * DIM + channel[None, :])
    out = tl.dot((e * share[:, None]).to(state.dtype), state, out)
    if BIAS:
        out += tl.load(bias + channel).to(tl.float32)[None, :]
    o += ((batch * length + start) * heads + head) * DIM
    tl.store(o + row[:, None] * (heads * DIM) + channel[None, :], out.to(o.dtype.element_ty), mask=inside)


def sparse_attention_8bit(
    q: Tensor,
    operands: Operands,
    moments: Moments,
    index: Tensor,
    bias: Tensor | None,
    config: Attend8,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Softmax attention over the listed key blocks, plus phi(q) folded / (1e-5 + phi(q) . norm) + bias.

    q: [b, L, h, d], last stride 1, what `operands` was made from. index: int32 [b, h, q_blocks, kept], ascending.
    bias: [d]. Returns [b, L, h, d] in a dtype, by default q's. Source: SageAttention and SageAttention2 (Zhang et
    al. 2024): smoothed keys, int8 scores, e4m3 weights and values.
    """
    b, length, h, d = q.shape
    out = torch.empty((b, length, h, d), dtype=dtype or q.dtype, device=q.device)
    attend_8bit[(-(-length // config.queries), b * h)](
        q,
        operands.q,
        operands.q_scale,
        operands.k,
        operands.k_scale,
        operands.v,
        moments.v_scale,
        index,
        moments.folded,
        moments.norm,
        moments.norm if bias is None else bias,
        out,
        length,
        h,
        index.shape[3],
        *q.stride()[:3],
        BIAS=bias is not None,
        Q_BLOCK=Q_BLOCK,
        K_BLOCK=K_BLOCK,
        MAGIC=config.magic,
        STAND_IN=q.device.type == "cpu",
        QUERIES=config.queries,
        KEYS=config.keys,
        STAGES=config.stages,
        DIM=d,
        num_warps=config.warps,
    )
    return out
