"""The 8-bit sparse pass written out for Hopper: one warp copies blocks ahead, two warp groups multiply in turns.

The arithmetic is `sparse_8bit.attend_8bit`'s. Here the groups never wait for each other, so that one's softmax runs
beside the other's products; queries stay in registers, and blocks arrive by the tensor memory accelerator.
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
    """The copying warp: the listed blocks of keys and values in turn, then the folded state."""
    for i in range(keep):
        slot = i % STAGES
        phase = (i // STAGES) & 1
        block = bh * blocks + gl.load(index + i)
        mbarrier.wait(k_free.index(slot), phase ^ 1)
        mbarrier.expect(k_ready.index(slot), BLOCK * DIM)
        tma.async_copy_global_to_shared(k, [block * BLOCK, 0], k_ready.index(slot), keys.index(slot))
        mbarrier.wait(v_free.index(slot), phase ^ 1)
        mbarrier.expect(v_ready.index(slot), BLOCK * DIM)
        tma.async_copy_global_to_shared(v, [block * DIM, 0], v_ready.index(slot), values.index(slot))
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
def weigh(score, factor, peak, total, rows, TAIL: gl.constexpr, SCORE: gl.constexpr):
    """(float32 weights, peak, total, shrink) after a block's scores: see `sparse_8bit.fold_step`."""
    if TAIL:
        real = (gl.arange(0, BLOCK, layout=gl.SliceLayout(0, SCORE)) < rows)[None, :]
        score = gl.where(real, score, -4194303)  # below every score
    best = gl.max(score, 1)
    higher = gl.maximum(peak, gl.ceil(best.to(gl.float32) * factor))
    away = (score + ORIGIN_BITS).to(gl.float32, bitcast=True)
    p = gl.exp2(away * factor[:, None] - (ORIGIN * factor + (higher - RAISE))[:, None])
    if TAIL:
        p = gl.where(real, p, 0.0)
    shrink = gl.exp2(peak - higher)
    total = total * shrink + gl.sum(p, 1)
    return p, higher, total, shrink


@gluon.jit
def multiply_blocks(
    q, q_codes, q_scale, k_scale, v_scale, index, norm, bias, o, bh, tile, length, heads, keep, blocks,
    q_batch, q_row, q_head, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready,
    FIRST: gl.constexpr, BIAS: gl.constexpr, AHEAD: gl.constexpr, STAGES: gl.constexpr, DIM: gl.constexpr,
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
    zero = gl.zeros([GROUP, DIM], gl.float32, layout=OUT)
    out = zero
    peak = gl.full([GROUP], float("-inf"), gl.float32, layout=gl.SliceLayout(1, SCORE))
    total = gl.full([GROUP], 0.0, gl.float32, layout=gl.SliceLayout(1, SCORE))
    weights = gl.zeros([GROUP, BLOCK], gl.float32, layout=SCORE)
    shrink = total
    score = none
    if AHEAD:
        mbarrier.wait(k_ready.index(0), 0)
        score = warpgroup_mma(query, keys.index(0).permute((1, 0)), none, use_acc=False, is_async=True)
        score = warpgroup_mma_wait(0, [score])
        mbarrier.arrive(k_free.index(0), count=1)
    mbarrier.wait(v_ready.index(0), 0)
    k_scale += bh * blocks
    # Beside its own softmax a step has under way the output of the block before and, if AHEAD, the next scores.
    # Before the first block, that block's values have weights of zero.
    for i in range(keep - 1):
        coming = i + 1 if AHEAD else i
        behind = gl.maximum(i - 1, 0)
        mbarrier.wait(k_ready.index(coming % STAGES), (coming // STAGES) & 1)
        scores = warpgroup_mma(
            query, keys.index(coming % STAGES).permute((1, 0)), none, use_acc=False, is_async=True
        )
        value = values.index(behind % STAGES).permute((1, 0))
        product = warpgroup_mma(in_fragments(weights, WEIGHT), value, zero, use_acc=False, is_async=True)
        if not AHEAD:
            score = warpgroup_mma_wait(1, [scores])
            mbarrier.arrive(k_free.index(coming % STAGES), count=1)
        factor = row_scale * gl.load(k_scale + gl.load(index + i))
        weights, peak, total, lower = weigh(score, factor, peak, total, BLOCK, False, SCORE)
        # The wait for the next values stands here, between the weights and the wait for the products: without a
        # branch between them the assembler waits for the products first, and nothing runs beside them.
        mbarrier.wait(v_ready.index(i % STAGES), (i // STAGES) & 1)
        if AHEAD:
            score, product, total = warpgroup_mma_wait(0, [scores, product, total])
            mbarrier.arrive(k_free.index(coming % STAGES), count=1)
        else:
            product, total = warpgroup_mma_wait(0, [product, total])
        mbarrier.arrive(v_free.index(behind % STAGES), count=1, pred=i > 0)
        out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None] + product
        shrink = lower
    final = keep - 1
    last = gl.load(index + final)
    behind = gl.maximum(final - 1, 0)
    if not AHEAD:
        mbarrier.wait(k_ready.index(final % STAGES), (final // STAGES) & 1)
        score = warpgroup_mma(query, keys.index(final % STAGES).permute((1, 0)), none, use_acc=False, is_async=True)
        score = warpgroup_mma_wait(0, [score])
    value = values.index(behind % STAGES).permute((1, 0))
    product = warpgroup_mma(in_fragments(weights, WEIGHT), value, zero, use_acc=False, is_async=True)
    product = warpgroup_mma_wait(0, [product])
    out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None] + product
    factor = row_scale * gl.load(k_scale + last)
    # The list ascends, so only its last block can be the sequence's tail.
    weights, peak, total, shrink = weigh(score, factor, peak, total, length - last * BLOCK, True, SCORE)
    mbarrier.wait(v_ready.index(final % STAGES), (final // STAGES) & 1)
    value = values.index(final % STAGES).permute((1, 0))
    product = warpgroup_mma(in_fragments(weights, WEIGHT), value, zero, use_acc=False, is_async=True)
    product = warpgroup_mma_wait(0, [product])
    out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None] + product

    channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, OUT))
    out = out * gl.convert_layout(1.0 / total, gl.SliceLayout(1, OUT))[:, None]
    out = out * gl.load(v_scale + bh * DIM + channel)[None, :]
    row = gl.arange(0, GROUP, layout=gl.SliceLayout(1, WIDE))
    channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, WIDE))
    inside = (row < length - start)[:, None]
    batch = (bh // heads).to(gl.int64)
    head = bh % heads
    base = q + batch * q_batch + head * q_head + start.to(gl.int64) * q_row
    wide = gl.load(base + row[:, None] * q_row + channel[None, :], mask=inside, other=0.0).to(gl.float32)
    e = gl.exp2((wide - gl.max(wide, 1)[:, None]) * LOG2E)
    weight = gl.load(norm + bh * DIM + channel)
    share = 1.0 / (EPSILON * gl.sum(e, 1) + gl.sum(e * weight[None, :], 1))
    phi = gl.convert_layout((e * share[:, None]).to(gl.bfloat16), PHI)
    mbarrier.wait(state_ready, 0)
    out = warpgroup_mma(phi, state, gl.convert_layout(out, LINEAR), is_async=True)
    out = warpgroup_mma_wait(0, [out])
    out = gl.convert_layout(out, WIDE)
    if BIAS:
        out += gl.load(bias + channel).to(gl.float32)[None, :]
    at = o + ((batch * length + start) * heads + head) * DIM
    gl.store(at + row[:, None] * (heads * DIM) + channel[None, :], out.to(o.dtype.element_ty), mask=inside)


@gluon.jit(do_not_specialize=["length", "heads", "keep"])
def attend_gluon(
    q, q_codes, q_scale, k, k_scale, v, v_scale, index, folded, norm, bias, o,
    length, heads, keep, q_batch, q_row, q_head,
    BIAS: gl.constexpr, AHEAD: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """128 rows of the output, as `sparse_8bit.attend_8bit`. k, v, folded: descriptors of two dimensions."""
    tile, bh = gl.program_id(0), gl.program_id(1)
    lines = gl.cdiv(length, TILE)
    blocks = lines * (TILE // BLOCK)
    index += (bh.to(gl.int64) * lines + tile) * keep
    keys = gl.allocate_shared_memory(gl.int8, [STAGES, BLOCK, DIM], k.layout)
    values = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, DIM, BLOCK], v.layout)
    state = gl.allocate_shared_memory(gl.bfloat16, [DIM, DIM], folded.layout)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    state_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(i), count=1)
        mbarrier.init(v_ready.index(i), count=1)
        mbarrier.init(k_free.index(i), count=2)
        mbarrier.init(v_free.index(i), count=2)
    mbarrier.init(state_ready, count=1)
    fence_async_shared()
    gl.warp_specialize(
        [
            (multiply_blocks, (
                q, q_codes, q_scale, k_scale, v_scale, index, norm, bias, o, bh, tile, length, heads, keep, blocks,
                q_batch, q_row, q_head, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready,
                0, BIAS, AHEAD, STAGES, DIM,
            )),
            (multiply_blocks, (
                q, q_codes, q_scale, k_scale, v_scale, index, norm, bias, o, bh, tile, length, heads, keep, blocks,
                q_batch, q_row, q_head, keys, values, state, k_ready, v_ready, k_free, v_free, state_ready,
                GROUP, BIAS, AHEAD, STAGES, DIM,
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
) -> Tensor:
    """`sparse_8bit.sparse_attention_8bit` for compute capability 9.0 and 16-bit inputs."""
    b, length, h, d = q.shape
    out = torch.empty((b, length, h, d), dtype=q.dtype, device=q.device)
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
        AHEAD=config.ahead,
        STAGES=config.stages,
        REGISTERS=config.registers,
        DIM=d,
        num_warps=4,
    )
    return out
