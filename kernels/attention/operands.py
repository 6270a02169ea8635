"""What the 8-bit sparse pass multiplies, made from q, k and v in two readings and three launches.

The first reading (k, v) sums the linear branch's state, k's mean and v's range; the second (q, k, v) quantises and
pools.
"""

# pyright: reportCallIssue=false
# (a launch takes num_warps, which Triton's types do not know)
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.block_map import room_for
from kernels.quantized import FP8, FP8_MAX
from kernels.reference import K_BLOCK, Q_BLOCK
from kernels.tuning.sparse_linear import Quantize, Survey, split_of

LOG2E = tl.constexpr(math.log2(math.e))
INT8_MAX = tl.constexpr(127.0)
SMALLEST = tl.constexpr(1e-12)  # the range of a block of zeros
# Added to a float of less than 2^22, this leaves it rounded to an integer in the low bits, ties to even.
ORIGIN = tl.constexpr(12582912.0)
APART = tl.constexpr(32)  # rows of a tile that a warp's threads do not share
CHUNK = tl.constexpr(16)  # rows of a state that a program of fold_parts sums


@dataclass(frozen=True)
class Moments:
    """Sums over all keys, per head.

    folded: [b, h, d, d], the linear state times proj_l's weight, bfloat16 (float32 for float32 inputs). norm:
    float32 [b, h, d], the sum of phi(k). mean: [b, h, d] of k, in k's dtype. v_scale: float32 [b, h, d], a
    channel's largest magnitude / 448: e4m3 is a float, so only a range beyond 2^15 within a channel would want
    finer scales, and these cost the sparse pass nothing before its end.
    """

    folded: Tensor
    norm: Tensor
    mean: Tensor
    v_scale: Tensor


@dataclass(frozen=True)
class Operands:
    """q, k, v in 8 bits, padded with zeros to whole blocks of 128 rows, and their block means.

    q: int8 [b, h, L', d], times q_scale (float32 [b, h, L'], a row's) is q log2(e) / sqrt(d). k: int8
    [b, h, L', d], times k_scale (float32 [b, h, L' / 64], a block's) is k less its mean. v: e4m3
    [b, h, L' / 64, d, 64], times `Moments.v_scale` is v, a block's keys in the order of `key_at`. Scales have 8-bit
    mantissas: the sparse pass relies on it. pooled_q, pooled_k: as `kernels.attention.block_map.pooled` has them.
    """

    q: Tensor
    q_scale: Tensor
    k: Tensor
    k_scale: Tensor
    v: Tensor
    pooled_q: Tensor
    pooled_k: Tensor


@triton.jit(do_not_specialize=["length", "heads", "split"])
def survey_keys(
    k, v, state, norm, k_sum, v_peak, length, heads, split, k_batch, k_row, k_head, v_batch, v_row, v_head,
    KEYS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """phi(k)^T v, the sums of phi(k) and of k, the largest |v|, over `split` keys; phi = softmax over channels.

    k, v [b, L, h, d] by strides; state [b * h, splits, d, d], the others [b * h, splits, d], float32.
    """
    part, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, DIM)
    first = part.to(tl.int64) * split
    k += (bh // heads) * k_batch + (bh % heads) * k_head + first * k_row
    v += (bh // heads) * v_batch + (bh % heads) * v_head + first * v_row
    rows = tl.minimum(length - first, split).to(tl.int32)
    products = tl.zeros((DIM, DIM), tl.float32)
    # Sums stay apart by APART rows until the end: a reduction across warps in each step would cost more.
    phis = tl.zeros((APART, DIM), tl.float32)
    keys = tl.zeros((APART, DIM), tl.float32)
    peaks = tl.zeros((APART, DIM), tl.float32)
    for start in tl.range(0, rows, KEYS, num_stages=STAGES):
        row = start + tl.arange(0, KEYS)
        real = row[:, None] < rows
        key = tl.load(k + row[:, None] * k_row + channel[None, :], mask=real, other=0.0).to(tl.float32)
        value = tl.load(v + row[:, None] * v_row + channel[None, :], mask=real, other=0.0)
        e = tl.exp2((key - tl.max(key, 1)[:, None]) * LOG2E)
        phi = tl.where(real, e * (1.0 / tl.sum(e, 1))[:, None], 0.0)
        phis += tl.sum(phi.reshape(KEYS // APART, APART, DIM), 0)
        keys += tl.sum(key.reshape(KEYS // APART, APART, DIM), 0)
        peaks = tl.maximum(peaks, tl.max(tl.abs(value.to(tl.float32)).reshape(KEYS // APART, APART, DIM), 0))
        products = tl.dot(tl.trans(phi.to(value.dtype)), value, products, input_precision="tf32x3")
    at = bh * tl.num_programs(0) + part
    tl.store(norm + at * DIM + channel, tl.sum(phis, 0))
    tl.store(k_sum + at * DIM + channel, tl.sum(keys, 0))
    tl.store(v_peak + at * DIM + channel, tl.max(peaks, 0))
    tl.store(state + at * DIM * DIM + channel[:, None] * DIM + channel[None, :], products)


@triton.jit(do_not_specialize=["length", "parts"])
def fold_parts(
    state, norm, k_sum, v_peak, weight, folded, whole_norm, mean, v_scale, length, parts,
    FP8_MAX: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Sums CHUNK rows of the parts of a head's state in their order, times weight^T; its other sums likewise."""
    chunk, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, channel = chunk * CHUNK + tl.arange(0, CHUNK), tl.arange(0, DIM)
    total = tl.zeros((CHUNK, DIM), tl.float32)
    phis = tl.zeros((CHUNK,), tl.float32)
    keys = tl.zeros((CHUNK,), tl.float32)
    peak = tl.zeros((CHUNK,), tl.float32)
    for part in tl.range(0, parts, loop_unroll_factor=4):  # their loads at once, their sums in order
        at = (bh * parts + part) * DIM
        total += tl.load(state + (at + row)[:, None] * DIM + channel[None, :])
        phis += tl.load(norm + at + row)
        keys += tl.load(k_sum + at + row)
        peak = tl.maximum(peak, tl.load(v_peak + at + row))
    projection = tl.load(weight + channel[None, :] * DIM + channel[:, None]).to(tl.float32)
    # A state that tf32 cut short would round to other bfloat16: 5e-4 of the output where one channel of phi rules.
    projected = tl.dot(total, projection, input_precision="tf32x3")
    at = bh * DIM + row
    tl.store(folded + at[:, None] * DIM + channel[None, :], projected.to(folded.dtype.element_ty))
    tl.store(whole_norm + at, phis)
    tl.store(mean + at, (keys / length).to(mean.dtype.element_ty))
    tl.store(v_scale + at, tl.maximum(peak, SMALLEST) * (1.0 / FP8_MAX))


@triton.jit
def round_up(scale):
    """The next float of an 8-bit mantissa: products of two and 1.5 * 2^23 are then exact."""
    return ((scale.to(tl.int32, bitcast=True) + 0xFFFF) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def int8_codes(x, inverse):
    # Inverses are rounded as the standard says, here and for e4m3: numbers of 8 bits often lie half-way between two
    # codes, and an approximate one would choose another for all of them.
    return (x * inverse + ORIGIN).to(tl.int32, bitcast=True).to(tl.int8)


@triton.jit
def e4m3(x, STAND_IN: tl.constexpr):
    """x of at most 448 as float8_e4m3fn. STAND_IN: rounded by hand, as Triton's interpreter does not carry."""
    if STAND_IN:
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        small = (x + 24576.0) - 24576.0  # to a multiple of 2^-9
        x = tl.where(tl.abs(x) < 0.015625, small, normal)
    return x.to(tl.float8e4nv)


@triton.jit
def key_at(place):
    """The key at a place of a block of values: of each 16, in the order in which a thread holds their weights.

    See `sparse_8bit.in_fragments`.
    """
    return (place // 16) * 16 + (place // 2) % 2 * 8 + (place // 4) % 4 * 2 + place % 2


@triton.jit
def quantize_queries(
    q, codes, scales, pooled, start, bh, left, fold, q_row, Q_BLOCK: tl.constexpr, DIM: tl.constexpr
):
    row, channel = tl.arange(0, Q_BLOCK), tl.arange(0, DIM)
    query = tl.load(q + row[:, None] * q_row + channel[None, :], mask=row[:, None] < left, other=0.0).to(tl.float32)
    mean = (tl.sum(query, 0) / left).to(pooled.dtype.element_ty)
    tl.store(pooled + (bh * tl.num_programs(0) + tl.program_id(0)) * DIM + channel, mean)
    query *= fold
    scale = round_up(tl.maximum(tl.max(tl.abs(query), 1), SMALLEST) * (1.0 / INT8_MAX))
    at = start + row
    tl.store(scales + at, scale)
    tl.store(codes + at[:, None] * DIM + channel[None, :], int8_codes(query, tl.div_rn(1.0, scale)[:, None]))


@triton.jit
def quantize_keys(
    k, mean, codes, scales, pooled, start, bh, blocks, pooled_rows, left, k_row,
    Q_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = Q_BLOCK // K_BLOCK
    row, channel, part = tl.arange(0, Q_BLOCK), tl.arange(0, DIM), tl.arange(0, PARTS)
    real = row[:, None] < left
    key = tl.load(k + row[:, None] * k_row + channel[None, :], mask=real, other=0.0)
    centre = tl.load(mean + bh * DIM + channel).to(tl.float32)
    # The reference stores k - mean in the input's dtype; so must we, or other blocks win.
    smooth = (key.to(tl.float32) - centre[None, :]).to(key.dtype).to(tl.float32)
    smooth = tl.where(real, smooth, 0.0).reshape(PARTS, K_BLOCK, DIM)
    rows = tl.maximum(tl.minimum(left - part * K_BLOCK, K_BLOCK), 1)
    means = (tl.sum(smooth, 1) / rows[:, None]).to(pooled.dtype.element_ty)
    block = tl.program_id(0) * PARTS + part
    at = (bh * pooled_rows + block)[:, None] * DIM + channel[None, :]
    tl.store(pooled + at, means, mask=(block < blocks)[:, None] & (channel < DIM)[None, :])
    scale = round_up(tl.maximum(tl.max(tl.max(tl.abs(smooth), 2), 1), SMALLEST) * (1.0 / INT8_MAX))
    tl.store(scales + start // K_BLOCK + part, scale)
    at = start + row
    byte = int8_codes(smooth, tl.div_rn(1.0, scale)[:, None, None]).reshape(Q_BLOCK, DIM)
    tl.store(codes + at[:, None] * DIM + channel[None, :], byte)


@triton.jit
def quantize_values(
    v, v_scale, codes, start, bh, left, v_row,
    STAND_IN: tl.constexpr, Q_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    channel, word = tl.arange(0, DIM), tl.arange(0, Q_BLOCK // 4)
    inverse = tl.div_rn(1.0, tl.load(v_scale + bh * DIM + channel))
    # Four keys make a word, so that what is transposed is words and not bytes.
    four = tl.zeros((Q_BLOCK // 4, DIM), tl.int32)
    for byte in tl.static_range(4):
        line = key_at(word * 4 + byte)
        value = tl.load(v + line[:, None] * v_row + channel[None, :], mask=line[:, None] < left, other=0.0)
        code = e4m3(value.to(tl.float32) * inverse[None, :], STAND_IN).to(tl.uint8, bitcast=True)
        four |= code.to(tl.int32) << (8 * byte)
    WORDS: tl.constexpr = K_BLOCK // 4  # of a channel of a block
    at = start * (DIM // 4) + (word // WORDS * (WORDS * DIM) + word % WORDS)[None, :] + channel[:, None] * WORDS
    tl.store(codes + at, tl.trans(four))


@triton.jit(do_not_specialize=["length", "heads", "fold", "pooled_rows"])
def quantize_blocks(
    q, k, v, mean, v_scale, q_codes, q_scale, k_codes, k_scale, v_codes, pooled_q, pooled_k,
    length, heads, fold, pooled_rows,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head,
    STAND_IN: tl.constexpr, Q_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """128 rows of q, of k or of v (the grid's third number): codes, scales and means, as `Operands` has them.

    q, k, v [b, L, h, d] by strides; v_codes as int32. fold: log2(e) / sqrt(d). pooled_rows: of pooled_k.
    """
    tile, bh, kind = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    batch, head = bh // heads, bh % heads
    first = tile * Q_BLOCK
    left = tl.minimum(length - first, Q_BLOCK).to(tl.int32)
    start = bh * tl.num_programs(0) * Q_BLOCK + first
    if kind == 0:
        q += batch * q_batch + head * q_head + first * q_row
        quantize_queries(q, q_codes, q_scale, pooled_q, start, bh, left, fold, q_row, Q_BLOCK, DIM)
    elif kind == 1:
        k += batch * k_batch + head * k_head + first * k_row
        quantize_keys(
            k, mean, k_codes, k_scale, pooled_k, start, bh, tl.cdiv(length, K_BLOCK), pooled_rows, left, k_row,
            Q_BLOCK, K_BLOCK, DIM,
        )  # fmt: skip
    else:
        v += batch * v_batch + head * v_head + first * v_row
        quantize_values(v, v_scale, v_codes, start, bh, left, v_row, STAND_IN, Q_BLOCK, K_BLOCK, DIM)


@dataclass(frozen=True)
class Parts:
    """What `survey` sums, a part of the keys at a time: float32 [b * h, parts, d] and, the state, [.., d, d]."""

    state: Tensor
    norm: Tensor
    k_sum: Tensor
    v_peak: Tensor


def survey(k: Tensor, v: Tensor, config: Survey) -> Parts:
    """The sums over k and v [b, L, h, d], last stride 1, by parts of `tuning.split_of` keys."""
    b, length, h, d = k.shape
    split = config.split or split_of(length, b * h)
    parts = -(-length // split)
    state = torch.empty((b * h, parts, d, d), dtype=torch.float32, device=k.device)
    found = Parts(state, *(torch.empty((b * h, parts, d), dtype=torch.float32, device=k.device) for _ in range(3)))
    survey_keys[(parts, b * h)](
        k,
        v,
        found.state,
        found.norm,
        found.k_sum,
        found.v_peak,
        length,
        h,
        split,
        *k.stride()[:3],
        *v.stride()[:3],
        KEYS=config.keys,
        STAGES=config.stages,
        DIM=d,
        num_warps=config.warps,
        maxnreg=config.registers,
    )
    return found


def fold(parts: Parts, like: Tensor, proj_weight: Tensor) -> Moments:
    """The parts summed in their order, the state times proj_l's weight. like: k, for its shape and dtype."""
    b, length, h, d = like.shape

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty((b, h, *shape), dtype=dtype, device=like.device)

    folded = torch.float32 if like.dtype == torch.float32 else torch.bfloat16
    out = Moments(empty(d, d, dtype=folded), empty(d), empty(d, dtype=like.dtype), empty(d))
    fold_parts[(d // CHUNK.value, b * h)](
        parts.state,
        parts.norm,
        parts.k_sum,
        parts.v_peak,
        proj_weight.contiguous(),
        out.folded,
        out.norm,
        out.mean,
        out.v_scale,
        length,
        parts.norm.shape[1],
        FP8_MAX=FP8_MAX,
        DIM=d,
        num_warps=4,
    )
    return out


def moments(k: Tensor, v: Tensor, proj_weight: Tensor, config: Survey) -> Moments:
    """The sums over all keys that the sparse pass needs: the same inputs give the same bits.

    k, v: [b, L, h, d], last stride 1; proj_weight [d, d].
    """
    return fold(survey(k, v, config), k, proj_weight)


def operands(q: Tensor, k: Tensor, v: Tensor, sums: Moments, config: Quantize) -> Operands:
    """q, k, v [b, L, h, d], last stride 1, in 8 bits, and their block means."""
    b, length, h, d = q.shape
    blocks = -(-length // Q_BLOCK)
    padded = blocks * Q_BLOCK

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty((b, h, *shape), dtype=dtype, device=q.device)

    out = Operands(
        q=empty(padded, d, dtype=torch.int8),
        q_scale=empty(padded, dtype=torch.float32),
        k=empty(padded, d, dtype=torch.int8),
        k_scale=empty(padded // K_BLOCK, dtype=torch.float32),
        v=empty(padded // K_BLOCK, d, K_BLOCK, dtype=FP8),
        pooled_q=empty(blocks, d, dtype=q.dtype),
        pooled_k=empty(room_for(-(-length // K_BLOCK)), d, dtype=k.dtype),
    )
    quantize_blocks[(blocks, b * h, 3)](
        q,
        k,
        v,
        sums.mean,
        sums.v_scale,
        out.q,
        out.q_scale,
        out.k,
        out.k_scale,
        out.v.view(torch.int32),
        out.pooled_q,
        out.pooled_k,
        length,
        h,
        LOG2E.value / math.sqrt(d),
        out.pooled_k.shape[2],
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        STAND_IN=q.device.type == "cpu",
        Q_BLOCK=Q_BLOCK,
        K_BLOCK=K_BLOCK,
        DIM=d,
        num_warps=config.warps,
    )
    return out
