"""The 8-bit sparse pass written out for Hopper: one warp copies blocks ahead, two warp groups multiply.

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
    q, q_codes, k, v, folded, index, tiles, lines, keep, length, heads, queries, keys, values, wide, state,
    q_ready, q_free, k_ready, k_free, v_ready, v_free, end_ready, end_free,
    STAGES: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """The copying warp, for each tile: its queries in 8 bits; the listed blocks of keys and values by pairs, the
    last pair first; then what its end needs, queries in 16 bits and the folded state.

    A last block without another is copied twice.
    """
    pairs = (keep - 1) // 2
    blocks = lines * (TILE // BLOCK)
    for n in range(gl.program_id(0), tiles, gl.num_programs(0)):
        done = (n - gl.program_id(0)) // gl.num_programs(0)  # tiles, and so turns of what each has one of
        i = done * (pairs + 1)  # pairs
        bh = n // lines
        tile = n % lines
        here = index + n.to(gl.int64) * keep
        first = gl.load(here + 2 * pairs)
        second = gl.load(here + keep - 1)
        mbarrier.wait(q_free, (done & 1) ^ 1)
        mbarrier.expect(q_ready, TILE * DIM)
        for group in gl.static_range(TILE // GROUP):
            row = (bh * lines + tile) * TILE + group * GROUP
            tma.async_copy_global_to_shared(q_codes, [row, 0], q_ready, queries.index(group))
        for t in range(pairs + 1):
            slot = (i + t) % STAGES
            phase = ((i + t) // STAGES) & 1
            one = bh * blocks + first
            two = bh * blocks + second
            first = gl.load(here + gl.minimum(2 * t, keep - 1))  # the next pair, while this one waits
            second = gl.load(here + gl.minimum(2 * t + 1, keep - 1))
            mbarrier.wait(k_free.index(slot), phase ^ 1)
            mbarrier.expect(k_ready.index(slot), 2 * BLOCK * DIM)
            tma.async_copy_global_to_shared(k, [one * BLOCK, 0], k_ready.index(slot), keys.index(2 * slot))
            tma.async_copy_global_to_shared(k, [two * BLOCK, 0], k_ready.index(slot), keys.index(2 * slot + 1))
            mbarrier.wait(v_free.index(slot), phase ^ 1)
            mbarrier.expect(v_ready.index(slot), 2 * BLOCK * DIM)
            tma.async_copy_global_to_shared(v, [one * DIM, 0], v_ready.index(slot), values.index(2 * slot))
            tma.async_copy_global_to_shared(v, [two * DIM, 0], v_ready.index(slot), values.index(2 * slot + 1))
        mbarrier.wait(end_free, (done & 1) ^ 1)
        mbarrier.expect(end_ready, (TILE + DIM) * DIM * 2)
        for group in gl.static_range(TILE // GROUP):
            row = (bh // heads) * length + tile * TILE + group * GROUP
            tma.async_copy_global_to_shared(q, [row, (bh % heads) * DIM], end_ready, wide.index(group))
        tma.async_copy_global_to_shared(folded, [bh * DIM, 0], end_ready, state)


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


@gluon.constexpr_function
def rescaling(count):
    """Assembly that multiplies `count` registers by as many, of two rows in turns by pairs, and its constraints.

    A peak is a whole number, so once a row has met its best keys it stays, and most steps' factors are 1: a warp of
    such rows jumps over its multiplications.
    """
    first, third = 2 * count, 2 * count + 2
    lines = [
        "{ .reg .pred one, other;",
        f"setp.neu.f32 one, ${first}, 0f3F800000;",
        f"setp.neu.f32 other, ${third}, 0f3F800000;",
        "or.pred one, one, other;",
        "vote.sync.any.pred one, one, 0xffffffff;",
        "@!one bra.uni DONE;",
        *(f"mul.f32 ${i}, ${i}, ${first + i};" for i in range(count)),
        "DONE: }",
    ]
    return " ".join(lines), ",".join(["=f"] * count + [str(i) for i in range(count)] + ["f"] * count)


@gluon.jit
def rescale(out, shrink):
    """out times its rows' shrink."""
    OUT: gl.constexpr = out.type.layout
    COUNT: gl.constexpr = out.shape[1] // 2  # registers of each thread
    CODE: gl.constexpr = rescaling(COUNT)
    out, by = gl.broadcast(out, gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None])
    return gl.inline_asm_elementwise(CODE[0], CODE[1], [out, by], gl.float32, True, COUNT)


@gluon.jit
def begin_output(out, p, r, values, v_ready, t, STAGES: gl.constexpr):
    """The output with pair t's values, under way."""
    slot = t % STAGES
    mbarrier.wait(v_ready.index(slot), (t // STAGES) & 1)
    out = warpgroup_mma(p, values.index(2 * slot).permute((1, 0)), out, is_async=True)
    return warpgroup_mma(r, values.index(2 * slot + 1).permute((1, 0)), out, is_async=True)


@gluon.jit
def ahead(index, k_scale, q_scale, n, lines, keep, FIRST: gl.constexpr, SCORE: gl.constexpr):
    """What a tile begins with: its rows' scales; its last block; the scales of its first pair and of the next, and
    the blocks of the pair after that."""
    here = index + n.to(gl.int64) * keep
    k_scale += n // lines * (lines * (TILE // BLOCK))
    row = gl.arange(0, GROUP, layout=gl.SliceLayout(1, SCORE))
    rows = gl.load(q_scale + n.to(gl.int64) * TILE + FIRST + row)
    last = gl.load(here + keep - 1)
    first_one = gl.load(k_scale + gl.load(here + (keep - 1) // 2 * 2))
    first_two = gl.load(k_scale + last)
    scale_one = gl.load(k_scale + gl.load(here))
    scale_two = gl.load(k_scale + gl.load(here + gl.minimum(1, keep - 1)))
    next_one = gl.load(here + gl.minimum(2, keep - 1))
    next_two = gl.load(here + gl.minimum(3, keep - 1))
    return rows, last, first_one, first_two, scale_one, scale_two, next_one, next_two


@gluon.jit
def multiply_blocks(
    q_scale, k_scale, v_scale, index, norm, bias, o, tiles, lines, keep, length, heads,
    queries, keys, values, wide, state, q_ready, q_free, k_ready, k_free, v_ready, v_free, end_ready, end_free,
    FIRST: gl.constexpr, BIAS: gl.constexpr, STAGES: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """A warp group's GROUP rows of every tile, from row FIRST."""
    SCORE: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK, 32]
    )
    OUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, DIM, 32])
    LINEAR: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, DIM, 16]
    )
    WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [32 // (DIM // 8), DIM // 8], [4, 1], [1, 0])
    QUERY: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SCORE, k_width=4)
    WEIGHT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=OUT, k_width=4)
    PHI: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=LINEAR, k_width=2)
    pairs = (keep - 1) // 2
    none = gl.zeros([GROUP, BLOCK], gl.int32, layout=SCORE)
    row_scale, last, first_one, first_two, scale_one, scale_two, next_one, next_two = ahead(
        index, k_scale, q_scale, gl.program_id(0), lines, keep, FIRST, SCORE
    )
    for n in range(gl.program_id(0), tiles, gl.num_programs(0)):
        done = (n - gl.program_id(0)) // gl.num_programs(0)  # tiles, and so turns of what each has one of
        i = done * (pairs + 1)  # pairs
        bh = n // lines
        tile = n % lines
        here = index + n.to(gl.int64) * keep
        scales = k_scale + bh * (lines * (TILE // BLOCK))
        mbarrier.wait(q_ready, done & 1)
        query = queries.index(FIRST // GROUP).load(QUERY)
        fence_async_shared()  # what the copying warp writes there next comes after this read
        mbarrier.arrive(q_free, count=1)
        out = gl.zeros([GROUP, DIM], gl.float32, layout=OUT)
        peak = gl.full([GROUP], float("-inf"), gl.float32, layout=gl.SliceLayout(1, SCORE))
        total = sum_in_threads(gl.zeros([GROUP, BLOCK], gl.float32, layout=SCORE))
        one, two = begin_scores(query, keys, none, k_ready, i, STAGES)
        one, two = warpgroup_mma_wait(0, [one, two])
        mbarrier.arrive(k_free.index(i % STAGES), count=1)
        # The list ascends, so only its last block can be the tail: its pair goes first, no other pays for a mask.
        rows_one = gl.where(keep % 2 == 0, BLOCK, 0)  # the last block again where there is no other
        p, r, peak, total, shrink = weigh(
            one, two, row_scale * first_one, row_scale * first_two, peak, total, rows_one, length - last * BLOCK,
            True, SCORE,
        )  # fmt: skip
        # Beside the scores of a pair the output is rescaled; beside its softmax runs the output of the pair before.
        for t in range(pairs):
            one, two = begin_scores(query, keys, none, k_ready, i + t + 1, STAGES)
            out = rescale(out, shrink)
            running = begin_output(
                out, in_fragments(p, WEIGHT), in_fragments(r, WEIGHT), values, v_ready, i + t, STAGES
            )
            one, two = warpgroup_mma_wait(2, [one, two])
            mbarrier.arrive(k_free.index((i + t + 1) % STAGES), count=1)
            factor_one = row_scale * scale_one
            factor_two = row_scale * scale_two
            # Blocks and their scales are looked up two steps and one step ahead.
            scale_one = gl.load(scales + next_one)
            scale_two = gl.load(scales + next_two)
            next_one = gl.load(here + gl.minimum(2 * t + 4, keep - 1))
            next_two = gl.load(here + gl.minimum(2 * t + 5, keep - 1))
            p, r, peak, total, shrink = weigh(
                one, two, factor_one, factor_two, peak, total, BLOCK, BLOCK, False, SCORE
            )
            out, p, r = warpgroup_mma_wait(0, [running, p, r])
            mbarrier.arrive(v_free.index((i + t) % STAGES), count=1)
        # Beside the last product: phi(q), and what the next tile begins with.
        out = out * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
        running = begin_output(
            out, in_fragments(p, WEIGHT), in_fragments(r, WEIGHT), values, v_ready, i + pairs, STAGES
        )
        following = gl.minimum(n + gl.num_programs(0), tiles - 1)
        row_scale, last, first_one, first_two, scale_one, scale_two, next_one, next_two = ahead(
            index, k_scale, q_scale, following, lines, keep, FIRST, SCORE
        )
        channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, LINEAR))
        weight = gl.load(norm + bh * DIM + channel)
        v_factor = gl.load(v_scale + bh * DIM + channel)
        mbarrier.wait(end_ready, done & 1)
        e = wide.index(FIRST // GROUP).load(LINEAR).to(gl.float32)
        fence_async_shared()
        e = gl.exp2((e - gl.max(e, 1)[:, None]) * LOG2E)
        share = 1.0 / (EPSILON * gl.sum(e, 1) + gl.sum(e * weight[None, :], 1))
        phi = gl.convert_layout((e * share[:, None]).to(gl.bfloat16), PHI, assert_trivial=True)
        out, p, r = warpgroup_mma_wait(0, [running, p, r])
        mbarrier.arrive(v_free.index((i + pairs) % STAGES), count=1)
        out = gl.convert_layout(out, LINEAR, assert_trivial=True)
        out = out * gl.convert_layout(1.0 / gl.sum(total, 1), gl.SliceLayout(1, LINEAR))[:, None]
        out = out * v_factor[None, :]
        out = warpgroup_mma(phi, state, out, is_async=True)
        out = warpgroup_mma_wait(0, [out])
        mbarrier.arrive(end_free, count=1)
        if BIAS:
            out += gl.load(bias + channel).to(gl.float32)[None, :]
        out = gl.convert_layout(out.to(o.dtype.element_ty), WIDE)
        row = gl.arange(0, GROUP, layout=gl.SliceLayout(1, WIDE))
        channel = gl.arange(0, DIM, layout=gl.SliceLayout(0, WIDE))
        start = tile * TILE + FIRST
        at = o + (((bh // heads).to(gl.int64) * length + start) * heads + bh % heads) * DIM
        inside = (row < length - start)[:, None]
        gl.store(at + row[:, None] * (heads * DIM) + channel[None, :], out, mask=inside)


@gluon.jit(do_not_specialize=["length", "heads", "keep", "tiles"])
def attend_gluon(
    q, q_codes, q_scale, k, k_scale, v, v_scale, index, folded, norm, bias, o, length, heads, keep, tiles,
    BIAS: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr, DIM: gl.constexpr,
):  # fmt: skip
    """Tiles of 128 rows of the output, the number of programs apart, as `sparse_8bit.attend_8bit`.

    q [b * L, h * d], q_codes, k, v, folded: descriptors of two dimensions.
    """
    lines = gl.cdiv(length, TILE)
    queries = gl.allocate_shared_memory(gl.int8, [TILE // GROUP, GROUP, DIM], q_codes.layout)
    keys = gl.allocate_shared_memory(gl.int8, [2 * STAGES, BLOCK, DIM], k.layout)
    values = gl.allocate_shared_memory(gl.float8e4nv, [2 * STAGES, DIM, BLOCK], v.layout)
    wide = gl.allocate_shared_memory(q.dtype, [TILE // GROUP, GROUP, DIM], q.layout)
    state = gl.allocate_shared_memory(gl.bfloat16, [DIM, DIM], folded.layout)
    q_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    end_ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    end_free = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=TILE // GROUP)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=TILE // GROUP)
    mbarrier.init(q_ready, count=1)
    mbarrier.init(q_free, count=TILE // GROUP)
    mbarrier.init(end_ready, count=1)
    mbarrier.init(end_free, count=TILE // GROUP)
    fence_async_shared()
    gl.warp_specialize(
        [
            (multiply_blocks, (
                q_scale, k_scale, v_scale, index, norm, bias, o, tiles, lines, keep, length, heads,
                queries, keys, values, wide, state, q_ready, q_free, k_ready, k_free, v_ready, v_free, end_ready,
                end_free, 0, BIAS, STAGES, DIM,
            )),
            (multiply_blocks, (
                q_scale, k_scale, v_scale, index, norm, bias, o, tiles, lines, keep, length, heads,
                queries, keys, values, wide, state, q_ready, q_free, k_ready, k_free, v_ready, v_free, end_ready,
                end_free, GROUP, BIAS, STAGES, DIM,
            )),
            (copy_blocks, (
                q, q_codes, k, v, folded, index, tiles, lines, keep, length, heads, queries, keys, values, wide,
                state, q_ready, q_free, k_ready, k_free, v_ready, v_free, end_ready, end_free, STAGES, DIM,
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
    q_layout, k_layout, v_layout = (
        gl.NVMMASharedLayout(swizzle_byte_width=min(128, width * bits // 8), element_bitwidth=bits, rank=2)
        for width, bits in ((d, 16), (d, 8), (K_BLOCK, 8))
    )
    tiles = -(-length // Q_BLOCK) * b * h
    programs = torch.cuda.get_device_properties(q.device).multi_processor_count
    attend_gluon[(min(tiles, programs),)](
        TensorDescriptor.from_tensor(_matrix(q), [GROUP.value, d], q_layout),
        TensorDescriptor.from_tensor(operands.q.view(-1, d), [GROUP.value, d], k_layout),
        operands.q_scale,
        TensorDescriptor.from_tensor(operands.k.view(-1, d), [K_BLOCK, d], k_layout),
        operands.k_scale,
        TensorDescriptor.from_tensor(operands.v.view(-1, K_BLOCK), [d, K_BLOCK], v_layout),
        moments.v_scale,
        index,
        TensorDescriptor.from_tensor(moments.folded.view(-1, d), [d, d], q_layout),
        moments.norm,
        moments.norm if bias is None else bias,
        out,
        length,
        h,
        index.shape[3],
        tiles,
        BIAS=bias is not None,
        STAGES=config.stages,
        REGISTERS=config.registers,
        DIM=d,
        num_warps=4,
    )
    return out


def _matrix(q: Tensor) -> Tensor:
    """q [b, L, h, d] as rows of h * d that a descriptor takes, on 16 bytes and all one step apart; or a copy so."""
    b, length, h, d = q.shape
    batch, row, head, one = q.stride()
    aligned = q.data_ptr() % 16 == 0 and row * q.element_size() % 16 == 0
    if not (aligned and one == 1 and (h == 1 or head == d) and (b == 1 or batch == length * row)):
        q = q.clone(memory_format=torch.contiguous_format)  # contiguous() keeps one that begins off 16 bytes
    return q.as_strided((b * length, h * d), (q.stride(1), 1))
