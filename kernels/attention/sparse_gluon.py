"""The 8-bit sparse pass written out for Hopper: one warp copies blocks ahead, two warp groups multiply in turns.

The arithmetic is `sparse_8bit.attend_8bit`'s, but that the tensor cores add up the output: they keep some 14 bits
of an e4m3 sum. One group's softmax runs beside the other's products and its own; queries stay in registers, blocks
arrive by the tensor memory accelerator.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (Gluon's types know neither launches nor what its builtins return)
import math

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.attention.operands import Moments, Operands
from kernels.reference import K_BLOCK, Q_BLOCK
from kernels.tuning.sparse_linear import AttendHopper

LOG2E = gl.constexpr(math.log2(math.e))
EPSILON = gl.constexpr(1e-5)
RAISE = gl.constexpr(8.0)
ORIGIN_BITS = gl.constexpr(0x4B400000)
ORIGIN = gl.constexpr(12582912.0)
GROUP = gl.constexpr(64)  # rows of a warp group
BLOCK = gl.constexpr(K_BLOCK)
TILE = gl.constexpr(Q_BLOCK)


@gluon.jit
def copy_blocks(
    k, v, folded, index, bh, blocks, keep, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready,
    STAGES: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """The copying warp: the listed blocks of keys and values by pairs, the last pair first; then the folded state.

    A last block without another is copied twice.
    """
    pairs = (keep - 1) // 2
    first = gl.load(index + 2 * pairs)
    second = gl.load(index + keep - 1)
    for t in range(pairs + 1):
        slot = t % STAGES
        phase = (t // STAGES) & 1
        one = bh * blocks + first
        two = bh * blocks + second
        first = gl.load(index + gl.minimum(2 * t, keep - 1))  # the next pair, while this one waits
        second = gl.load(index + gl.minimum(2 * t + 1, keep - 1))
        mbarrier.wait(k_free.index(slot), phase ^ 1)
        mbarrier.expect(k_ready.index(slot), 2 * BLOCK * DIM)
        tma.async_copy_global_to_shared(k, [one * BLOCK, 0], k_ready.index(slot), keys.index(2 * slot))
        tma.async_copy_global_to_shared(k, [two * BLOCK, 0], k_ready.index(slot), keys.index(2 * slot + 1))
        mbarrier.wait(v_free.index(slot), phase ^ 1)
        mbarrier.expect(v_ready.index(slot), 2 * BLOCK * DIM)
        tma.async_copy_global_to_shared(v, [one * DIM, 0], v_ready.index(slot), values.index(2 * slot))
        tma.async_copy_global_to_shared(v, [two * DIM, 0], v_ready.index(slot), values.index(2 * slot + 1))
    mbarrier.expect(state_ready, DIM * DIM * 2)
    tma.async_copy_global_to_shared(folded, [bh * DIM, 0], state_ready, state)


@gluon.jit
def in_fragments(p, LAYOUT: gl.constexpr):
    """See `sparse_8bit.in_fragments`: what a thread has of the weights it keeps, as an operand."""
    turned = (
        p.to(gl.float8e4nv).reshape([GROUP, BLOCK // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([GROUP, BLOCK])
    )
    return gl.convert_layout(turned, LAYOUT, assert_trivial=True)


@gluon.jit
def sum_in_threads(p):
    """[GROUP, 4]: columns summed by the thread that holds them, so that no step waits for a row's other threads."""
    return gl.sum(gl.sum(p.reshape([GROUP, BLOCK // 8, 4, 2]), 3), 1)


@gluon.jit
def max_in_threads(score):
    return gl.max(gl.max(score.reshape([GROUP, BLOCK // 8, 4, 2]), 3), 1)


@gluon.jit
def to_rows(x, LIKE: gl.constexpr):
    return gl.convert_layout(x, gl.SliceLayout(1, LIKE))[:, None]


@gluon.jit
def weights_of(score, factor, peak):
    """See `sparse_8bit.fold_step`."""
    away = (score + ORIGIN_BITS).to(gl.float32, bitcast=True)
    return gl.exp2(away * factor[:, None] - (ORIGIN * factor + (peak - RAISE))[:, None])


@gluon.jit
def weigh(
    one, two, factor_one, factor_two, peak, total, rows_one, rows_two, TAIL: gl.constexpr, SCORE: gl.constexpr
):
    """(weights of both blocks, peak, total, shrink) after a pair's scores: see `sparse_8bit.fold_step`."""
    if TAIL:
        column = gl.arange(0, BLOCK, layout=gl.SliceLayout(0, SCORE))
        one = gl.where((column < rows_one)[None, :], one, -4194303)  # below every score
        two = gl.where((column < rows_two)[None, :], two, -4194303)
    best_one = max_in_threads(one)
    best_two = max_in_threads(two)
    PARTS: gl.constexpr = best_one.type.layout
    best = gl.maximum(
        best_one.to(gl.float32) * to_rows(factor_one, PARTS), best_two.to(gl.float32) * to_rows(factor_two, PARTS)
    )
    higher = gl.maximum(peak, gl.ceil(gl.convert_layout(gl.max(best, 1), gl.SliceLayout(1, SCORE))))
    p = weights_of(one, factor_one, higher)
    r = weights_of(two, factor_two, higher)
    if TAIL:
        p = gl.where((column < rows_one)[None, :], p, 0.0)
        r = gl.where((column < rows_two)[None, :], r, 0.0)
    shrink = gl.exp2(peak - higher)
    total = total * to_rows(shrink, PARTS) + (sum_in_threads(p) + sum_in_threads(r))
    return p, r, higher, total, shrink


@gluon.jit
def begin_scores(query, keys, none, k_ready, t, STAGES: gl.constexpr):
    """The scores of pair t, under way."""
    slot = t % STAGES
    mbarrier.wait(k_ready.index(slot), (t // STAGES) & 1)
    one = warpgroup_mma(query, keys.index(2 * slot).permute((1, 0)), none, use_acc=False, is_async=True)
    two = warpgroup_mma(query, keys.index(2 * slot + 1).permute((1, 0)), none, use_acc=False, is_async=True)
    return one, two


@gluon.jit
def begin_output(out, p, r, values, v_ready, t, STAGES: gl.constexpr):
    """The output with pair t's values, under way."""
    slot = t % STAGES
    mbarrier.wait(v_ready.index(slot), (t // STAGES) & 1)
    out = warpgroup_mma(p, values.index(2 * slot).permute((1, 0)), out, is_async=True)
    return warpgroup_mma(r, values.index(2 * slot + 1).permute((1, 0)), out, is_async=True)


@gluon.jit
def multiply_blocks(
    q, q_codes, q_scale, k_scale, v_scale, index, norm, bias, o, bh, tile, length, heads, keep, blocks,
    q_batch, q_row, q_head, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready, turn,
    FIRST: gl.constexpr, BIAS: gl.constexpr, TURNS: gl.constexpr, STAGES: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """A warp group's GROUP rows of the output, from row FIRST of the tile."""
    SCORE: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK, 32]
    )
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, DIM, 32])
    LINEAR: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, DIM, 16]
    )
    LINES: gl.constexpr = gl.BlockedLayout([1, 16], [32 // (DIM // 16), DIM // 16], [4, 1], [1, 0])
    WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [32 // (DIM // 8), DIM // 8], [4, 1], [1, 0])
    QUERY: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SCORE, k_width=4)
    WEIGHT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=4)
    PHI: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=LINEAR, k_width=2)
    start = tile * TILE + FIRST
    padded = blocks * BLOCK

    row = gl.arange(0, GROUP, layout=gl.SliceLayout(1, LINES))
    channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, LINES))
    base = q_codes + (bh.to(gl.int64) * padded + start) * DIM
    query = gl.convert_layout(gl.load(base + row[:, None] * DIM + channel[None, :]), QUERY)
    row = gl.arange(0, GROUP, layout=gl.SliceLayout(1, SCORE))
    row_scale = gl.load(q_scale + bh.to(gl.int64) * padded + start + row)

    none = gl.zeros([GROUP, BLOCK], gl.int32, layout=SCORE)
    out = gl.zeros([GROUP, DIM], gl.float32, layout=OUT)
    peak = gl.full([GROUP], float("-inf"), gl.float32, layout=gl.SliceLayout(1, SCORE))
    total = sum_in_threads(gl.zeros([GROUP, BLOCK], gl.float32, layout=SCORE))
    k_scale += bh * blocks
    pairs = (keep - 1) // 2
    # The list ascends, so only its last block can be the tail: its pair goes first, and no other pays for a mask.
    last = gl.load(index + keep - 1)
    factor_one = row_scale * gl.load(k_scale + gl.load(index + 2 * pairs))
    factor_two = row_scale * gl.load(k_scale + last)
    # Blocks and their scales are looked up two steps and one step ahead.
    scale_one = gl.load(k_scale + gl.load(index))
    scale_two = gl.load(k_scale + gl.load(index + gl.minimum(1, keep - 1)))
    next_one = gl.load(index + gl.minimum(2, keep - 1))
    next_two = gl.load(index + gl.minimum(3, keep - 1))
    one, two = begin_scores(query, keys, none, k_ready, 0, STAGES)
    one, two = warpgroup_mma_wait(0, [one, two])
    mbarrier.arrive(k_free.index(0), count=1)
    rows_one = gl.where(keep % 2 == 0, BLOCK, 0)  # the last block again where there is no other
    p, r, peak, total, shrink = weigh(
        one, two, factor_one, factor_two, peak, total, rows_one, length - last * BLOCK,
        True, SCORE,
    )  # fmt: skip
    # Beside the scores of a pair the output is rescaled; beside its softmax runs the output of the pair before.
    ME: gl.constexpr = FIRST // GROUP
    for t in range(pairs):
        if TURNS:  # the first group need not wait for its first turn
            mbarrier.wait(turn.index(ME), (t + 1 + ME) & 1)
        one, two = begin_scores(query, keys, none, k_ready, t + 1, STAGES)
        out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
        running = begin_output(out, in_fragments(p, WEIGHT), in_fragments(r, WEIGHT), values, v_ready, t, STAGES)
        if TURNS:
            mbarrier.arrive(turn.index(1 - ME), count=1)
        one, two = warpgroup_mma_wait(2, [one, two])
        mbarrier.arrive(k_free.index((t + 1) % STAGES), count=1)
        factor_one = row_scale * scale_one
        factor_two = row_scale * scale_two
        scale_one = gl.load(k_scale + next_one)
        scale_two = gl.load(k_scale + next_two)
        next_one = gl.load(index + gl.minimum(2 * t + 4, keep - 1))
        next_two = gl.load(index + gl.minimum(2 * t + 5, keep - 1))
        p, r, peak, total, shrink = weigh(one, two, factor_one, factor_two, peak, total, BLOCK, BLOCK, False, SCORE)
        out, p, r = warpgroup_mma_wait(0, [running, p, r])
        mbarrier.arrive(v_free.index(t % STAGES), count=1)
    # Beside the last product: phi(q).
    row = gl.arange(0, GROUP, layout=gl.SliceLayout(1, WIDE))
    channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, WIDE))
    inside = (row < length - start)[:, None]
    batch = (bh // heads).to(gl.int64)
    head = bh % heads
    base = q + batch * q_batch + head * q_head + start.to(gl.int64) * q_row
    wide = gl.load(base + row[:, None] * q_row + channel[None, :], mask=inside, other=0.0).to(gl.float32)
    weight = gl.load(norm + bh * DIM + channel)
    out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
    running = begin_output(out, in_fragments(p, WEIGHT), in_fragments(r, WEIGHT), values, v_ready, pairs, STAGES)
    e = gl.exp2((wide - gl.max(wide, 1)[:, None]) * LOG2E)
    share = 1.0 / (EPSILON * gl.sum(e, 1) + gl.sum(e * weight[None, :], 1))
    phi = gl.convert_layout((e * share[:, None]).to(gl.bfloat16), PHI)
    out = warpgroup_mma_wait(0, [running])
    channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, OUT))
    out = out * gl.convert_layout(1.0 / gl.sum(total, 1), gl.SliceLayout(1, OUT))[:, None]
    out = out * gl.load(v_scale + bh * DIM + channel)[None, :]
    mbarrier.wait(state_ready, 0)
    out = warpgroup_mma(phi, state, gl.convert_layout(out, LINEAR), is_async=True)
    out = warpgroup_mma_wait(0, [out])
    out = gl.convert_layout(out, WIDE)
    channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, WIDE))
    if BIAS:
        out += gl.load(bias + channel).to(gl.float32)[None, :]
    at = o + ((batch * length + start) * heads + head) * DIM
    gl.store(at + row[:, None] * (heads * DIM) + channel[None, :], out.to(o.dtype.element_ty), mask=inside)


@gluon.jit(do_not_specialize=["length", "heads", "keep"])
def attend_gluon(
    q, q_codes, q_scale, k, k_scale, v, v_scale, index, folded, norm, bias, o,
    length, heads, keep, q_batch, q_row, q_head,
    BIAS: gl.constexpr, TURNS: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """128 rows of the output, as `sparse_8bit.attend_8bit`. k, v, folded: descriptors of two dimensions."""
    tile, bh = gl.program_id(0), gl.program_id(1)
    lines = gl.cdiv(length, TILE)
    blocks = lines * (TILE // BLOCK)
    index += (bh.to(gl.int64) * lines + tile) * keep
    keys = gl.allocate_shared_memory(gl.int8, [2 * STAGES, BLOCK, DIM], k.layout)
    values = gl.allocate_shared_memory(gl.float8e4nv, [2 * STAGES, DIM, BLOCK], v.layout)
    state = gl.allocate_shared_memory(gl.bfloat16, [DIM, DIM], folded.layout)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    state_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(i), count=1)
        mbarrier.init(v_ready.index(i), count=1)
        mbarrier.init(k_free.index(i), count=2)
        mbarrier.init(v_free.index(i), count=2)
    mbarrier.init(state_ready, count=1)
    mbarrier.init(turn.index(0), count=1)
    mbarrier.init(turn.index(1), count=1)
    fence_async_shared()
    gl.warp_specialize(
        [
            (multiply_blocks, (
                q, q_codes, q_scale, k_scale, v_scale, index, norm, bias, o, bh, tile, length, heads, keep, blocks,
                q_batch, q_row, q_head, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready, turn,
                0, BIAS, TURNS, STAGES, DIM,
            )),
            (multiply_blocks, (
                q, q_codes, q_scale, k_scale, v_scale, index, norm, bias, o, bh, tile, length, heads, keep, blocks,
                q_batch, q_row, q_head, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready, turn,
                GROUP, BIAS, TURNS, STAGES, DIM,
            )),
            (copy_blocks, (
                k, v, folded, index, bh, blocks, keep, keys, values, state, k_ready, v_ready, k_free, v_free,
                state_ready, STAGES, DIM,
            )),
        ],
        [4, 1],
        [REGISTERS, 24],
    )  # fmt: skip


def sparse_attention_gluon(
    q: Tensor,
    operands: Operands,
    moments: Moments,
    index: Tensor,
    bias: Tensor | None,
    config: AttendHopper,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`sparse_8bit.sparse_attention_8bit` for compute capability 9.0 and 16-bit inputs."""
    b, length, h, d = q.shape
    out = torch.empty((b, length, h, d), dtype=dtype or q.dtype, device=q.device)
    k_layout = gl.NVMMASharedLayout(swizzle_byte_width=d, element_bitwidth=8, rank=2)
    v_layout = gl.NVMMASharedLayout(swizzle_byte_width=K_BLOCK, element_bitwidth=8, rank=2)
    s_layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    attend_gluon[(-(-length // Q_BLOCK), b * h)](
        q,
        operands.q,
        operands.q_scale,
        TensorDescriptor.from_tensor(operands.k.view(-1, d), [K_BLOCK, d], k_layout),
        operands.k_scale,
        TensorDescriptor.from_tensor(operands.v.view(-1, K_BLOCK), [d, K_BLOCK], v_layout),
        moments.v_scale,
        index,
        TensorDescriptor.from_tensor(moments.folded.view(-1, d), [d, d], s_layout),
        moments.norm,
        moments.norm if bias is None else bias,
        out,
        length,
        h,
        index.shape[3],
        *q.stride()[:3],
        BIAS=bias is not None,
        TURNS=config.turns,
        STAGES=config.stages,
        REGISTERS=config.registers,
        DIM=d,
        num_warps=4,
    )
    return out
