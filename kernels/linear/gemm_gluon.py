"""The fp8 GEMM written out for Hopper: a warp copies operands ahead, two warp groups multiply; see `gemm.multiply`.

Both groups share every tile, half its rows each; whichever is ahead finishes its half beside the other's products.
A barrier tells a phase only by its parity, so nobody may wait for a phase beyond the next: each group passes every
slot of the ring in order, and a slot is filled again only when both have.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# (Gluon's types know neither launches nor what its builtins return)
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

from kernels.linear.ends import end, halves, place
from kernels.quantized import Rows
from kernels.tuning.linear import GemmHopper

SHARES = gl.constexpr(2)  # warp groups, each with its share of a tile's rows


@gluon.jit
def copy_operands(
    x, w, m, n, k, a, b, ready, free,
    TALL: gl.constexpr, COLUMNS: gl.constexpr, DEPTH: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """The copying warp: every step of every tile of this program, in the order in which they are multiplied."""
    row_tiles, column_tiles = gl.cdiv(m, TALL * SHARES), gl.cdiv(n, COLUMNS)
    steps = gl.cdiv(k, DEPTH)
    i = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        for step in range(steps):
            slot = i % STAGES
            mbarrier.wait(free.index(slot), ((i // STAGES) & 1) ^ 1)  # at first it is
            bar = ready.index(slot)
            mbarrier.expect(bar, (SHARES * TALL + COLUMNS) * DEPTH)
            for share in gl.static_range(SHARES):
                at = (row * SHARES + share) * TALL
                tma.async_copy_global_to_shared(x, [at, step * DEPTH], bar, a.index(slot * SHARES + share))
            tma.async_copy_global_to_shared(w, [column * COLUMNS, step * DEPTH], bar, b.index(slot))
            i += 1


@gluon.jit
def multiply_steps(
    a, b, ready, free, i, steps, WHICH: gl.constexpr, STAGES: gl.constexpr, SUMS: gl.constexpr
):  # fmt: skip
    """The product over `steps` steps from the ring's i-th on, with two steps in flight."""
    TALL: gl.constexpr = a.shape[1]
    COLUMNS: gl.constexpr = b.shape[1]
    # Zeros, not what is left of the sums before: those would hold their registers through the tile's end.
    acc = gl.zeros([TALL, COLUMNS], gl.float32, layout=SUMS)
    for step in range(steps):
        at = i + step
        slot = at % STAGES
        mbarrier.wait(ready.index(slot), (at // STAGES) & 1)
        acc = warpgroup_mma(a.index(slot * SHARES + WHICH), b.index(slot).permute((1, 0)), acc, is_async=True)
        acc = warpgroup_mma_wait(1, [acc])
        mbarrier.arrive(free.index((at + STAGES - 1) % STAGES), count=1, pred=step > 0)
    acc = warpgroup_mma_wait(0, [acc])
    mbarrier.arrive(free.index((i + steps - 1) % STAGES), count=1)
    return acc


@gluon.jit
def columns_of(
    w_scale, bias, column, n, BIAS: gl.constexpr, WIDE: gl.constexpr, PIECE: gl.constexpr
):  # fmt: skip
    """(scale, bias) of the columns of a piece, as `end` takes them."""
    c = column + gl.arange(0, WIDE, layout=gl.SliceLayout(0, PIECE))
    scale = gl.load(w_scale + c, mask=c < n, other=0.0)[None, :]
    added = scale
    if BIAS:
        added = gl.load(bias + c, mask=c < n, other=0.0)[None, :]
    return scale, added


@gluon.jit
def multiply_tiles(
    x_scale, w_scale, bias, out, out_scale, m, n, k, a, b, ready, free, stage,
    WHICH: gl.constexpr, BIAS: gl.constexpr, CODES: gl.constexpr,
    TALL: gl.constexpr, COLUMNS: gl.constexpr, DEPTH: gl.constexpr, WIDE: gl.constexpr,
    STAGES: gl.constexpr, BUFFERS: gl.constexpr, PROMOTE: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """A warp group: TALL rows of every tile. Their sums, then pieces of WIDE columns."""
    PIECES: gl.constexpr = COLUMNS // WIDE
    EARLY: gl.constexpr = not PROMOTE  # else there are no registers for it
    SUMS: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, COLUMNS, 32]
    )
    PIECE: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDE, 32]
    )
    row_tiles, column_tiles = gl.cdiv(m, TALL * SHARES), gl.cdiv(n, COLUMNS)
    steps = gl.cdiv(k, DEPTH)
    i = 0
    for tile in range(gl.program_id(0), row_tiles * column_tiles, gl.num_programs(0)):
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        row = (row * SHARES + WHICH) * TALL
        column *= COLUMNS
        r = row + gl.arange(0, TALL, layout=gl.SliceLayout(1, PIECE))
        row_scale = gl.load(x_scale + r, mask=r < m, other=0.0)[:, None]
        code_scale = 1.0
        if CODES:
            code_scale = gl.load(out_scale + r, mask=r < m, other=1.0)[:, None]
        if EARLY:
            coming = columns_of(w_scale, bias, column, n, BIAS, WIDE, PIECE)
        if PROMOTE:
            total = gl.zeros([TALL, COLUMNS], gl.float32, layout=SUMS)
            for start in range(0, steps, PROMOTE):
                some = gl.minimum(steps - start, PROMOTE)
                total += multiply_steps(a, b, ready, free, i + start, some, WHICH, STAGES, SUMS)
        else:
            total = multiply_steps(a, b, ready, free, i, steps, WHICH, STAGES, SUMS)
        if not EARLY:
            coming = columns_of(w_scale, bias, column, n, BIAS, WIDE, PIECE)
        i += steps
        pieces = (total,)
        if PIECES > 1:
            pieces = halves(total)
        if PIECES == 4:
            pieces = halves(pieces[0]) + halves(pieces[1])
        for piece in gl.static_range(PIECES):
            y = gl.convert_layout(pieces[piece], PIECE, assert_trivial=True)
            scale, added = coming
            if piece + 1 < PIECES:  # a piece ahead: a barrier stands before every store
                coming = columns_of(w_scale, bias, column + (piece + 1) * WIDE, n, BIAS, WIDE, PIECE)
            buffer = stage.index(WHICH * BUFFERS + piece % BUFFERS)
            y = end(y, row_scale, scale, added, code_scale, BIAS, CODES, True, False).to(out.dtype)
            tma.store_wait(BUFFERS - 1)
            buffer.store(y)
            fence_async_shared()
            tma.async_copy_shared_to_global(out, [row, column + piece * WIDE], buffer)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["m"])
def multiply_gluon(
    x, w, x_scale, w_scale, bias, out, out_scale, m, n, k, BIAS: gl.constexpr, CODES: gl.constexpr,
    TALL: gl.constexpr, COLUMNS: gl.constexpr, DEPTH: gl.constexpr, WIDE: gl.constexpr, STAGES: gl.constexpr,
    BUFFERS: gl.constexpr, PROMOTE: gl.constexpr, GROUP: gl.constexpr,
):  # fmt: skip
    """`gemm.multiply` on descriptors of x [m, k], w [n, k] and out [m, n]."""
    a = gl.allocate_shared_memory(gl.float8e4nv, [STAGES * SHARES, TALL, DEPTH], x.layout)
    b = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, COLUMNS, DEPTH], w.layout)
    stage = gl.allocate_shared_memory(out.dtype, [2 * BUFFERS, TALL, WIDE], out.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(free.index(i), count=SHARES)
    fence_async_shared()
    gl.warp_specialize(
        [
            (multiply_tiles, (
                x_scale, w_scale, bias, out, out_scale, m, n, k, a, b, ready, free, stage,
                0, BIAS, CODES, TALL, COLUMNS, DEPTH, WIDE, STAGES, BUFFERS, PROMOTE, GROUP,
            )),
            (multiply_tiles, (
                x_scale, w_scale, bias, out, out_scale, m, n, k, a, b, ready, free, stage,
                1, BIAS, CODES, TALL, COLUMNS, DEPTH, WIDE, STAGES, BUFFERS, PROMOTE, GROUP,
            )),
            (copy_operands, (x, w, m, n, k, a, b, ready, free, TALL, COLUMNS, DEPTH, STAGES, GROUP)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


def linear(
    x: Rows,
    weight: Rows,
    bias: Tensor | None,
    out: Tensor,
    out_scale: Tensor | None,
    config: GemmHopper,
) -> None:
    """Fills out [m, n], in bfloat16 or, by out_scale, its GELU in fp8."""
    (m, k), n = x.codes.shape, weight.codes.shape[0]
    wide = config.wide(out.element_size())
    eight = gl.NVMMASharedLayout(swizzle_byte_width=config.depth, element_bitwidth=8, rank=2)
    staged = gl.NVMMASharedLayout(
        swizzle_byte_width=wide * out.element_size(), element_bitwidth=8 * out.element_size(), rank=2
    )
    tiles = -(-m // (config.tall * SHARES.value)) * -(-n // config.columns)
    programs = torch.cuda.get_device_properties(out.device).multi_processor_count
    multiply_gluon[(min(tiles, programs),)](
        TensorDescriptor.from_tensor(x.codes, [config.tall, config.depth], eight),
        TensorDescriptor.from_tensor(weight.codes, [config.columns, config.depth], eight),
        x.scale,
        weight.scale,
        x.scale if bias is None else bias,
        TensorDescriptor.from_tensor(out, [config.tall, wide], staged),
        x.scale if out_scale is None else out_scale,
        m,
        n,
        k,
        BIAS=bias is not None,
        CODES=out_scale is not None,
        TALL=config.tall,
        COLUMNS=config.columns,
        DEPTH=config.depth,
        WIDE=wide,
        STAGES=config.stages,
        BUFFERS=config.staged(out.element_size()),
        PROMOTE=config.promote,
        GROUP=config.group,
        num_warps=4,
    )
