"""Which key blocks each query block attends to, as a compact list, without a round trip to the host.

Computes what `kernels.reference.block_map` does, rounding where it rounds, so that both keep the same blocks.
"""

# pyright: reportCallIssue=false
# (a launch takes num_warps, which Triton's types do not know)
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.reference import K_BLOCK, Q_BLOCK

ROOM = tl.constexpr(8)


# Lengths and counts are not specialised: a new size must not cost a compilation in the middle of a render.
@triton.jit(do_not_specialize=["length", "heads", "room"])
def pool_blocks(
    x, mean, out, length, heads, room, x_batch, x_row, x_head,
    SMOOTH: tl.constexpr, BLOCK: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """One block's mean over its real rows. x [b, L, h, d] by strides; mean [b, h, d]; out [b, h, room, d]."""
    block, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start = block.to(tl.int64) * BLOCK
    row, channel = tl.arange(0, BLOCK), tl.arange(0, DIM)
    rows = tl.minimum(length - start, BLOCK)
    x += (bh // heads) * x_batch + (bh % heads) * x_head + start * x_row
    tile = tl.load(x + row[:, None] * x_row + channel[None, :], mask=row[:, None] < rows, other=0.0)
    if SMOOTH:
        centre = tl.load(mean + bh * DIM + channel)
        # The reference stores k - mean in the input's dtype; so must we, or other blocks win.
        smooth = (tile.to(tl.float32) - centre.to(tl.float32)[None, :]).to(tile.dtype)
        tile = tl.where(row[:, None] < rows, smooth, 0.0)
    total = tl.sum(tile.to(tl.float32), axis=0)
    at = (bh * room + block) * DIM + channel
    tl.store(out + at, (total / rows).to(out.dtype.element_ty))


@triton.jit(do_not_specialize=["blocks", "stride", "keep"])
def keep_best(score, index, blocks, stride, keep, WIDTH: tl.constexpr, BITS: tl.constexpr):
    """Columns of the `keep` best scores of a row, ascending; of equal scores the first win.

    score: rows of `blocks`, every `stride` (a multiple of ROOM); index [rows, keep] int32. WIDTH: a power of two
    >= blocks. BITS: how many of a float32's upper bits a score fills, 16 for bfloat16.
    """
    line = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    real = column < blocks
    stride = tl.multiple_of(stride, ROOM)  # whole words are read: what is behind the blocks is masked below
    s = tl.load(score + line * stride + column, mask=column < stride, other=0.0).to(tl.float32)
    s = tl.where(s == 0.0, 0.0, s)  # -0 is 0
    # Floats as unsigned integers of the same order; then the keep-th best is found bit by bit.
    bits = s.to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True) >> (32 - BITS)
    order = tl.where(real, order, 0)  # below every number
    threshold = tl.zeros((), tl.uint32)
    bit = tl.full((), 2 ** (BITS - 1), tl.uint32)
    for _ in range(BITS):
        higher = threshold | bit
        reaches = tl.sum((order >= higher).to(tl.int32), axis=0)
        threshold = tl.where(reaches >= keep, higher, threshold)
        bit = bit >> 1
    above = order > threshold
    level = real & (order == threshold)
    room = keep - tl.sum(above.to(tl.int32), axis=0)
    # One scan counts both: those above in the upper half of a word, those level in the lower one.
    one = tl.where(above, 65536, tl.where(level, 1, 0))
    before = tl.cumsum(one, axis=0) - one
    level_before = before & 0xFFFF
    place = (before >> 16) + tl.minimum(level_before, room)
    tl.store(index + line * keep + place, column, mask=above | (level & (level_before < room)))


def block_index(q: Tensor, k: Tensor, topk: float) -> Tensor:
    """The max(1, int(topk * key_blocks)) key blocks that each block of 128 queries attends to.

    q, k: [b, L, h, d] after RoPE, last stride 1. Returns int32 [b, h, q_blocks, kept], ascending.
    Source: SLA (Zhang et al. 2025), section 4.
    """
    pooled_q, pooled_k = pooled(q, None, Q_BLOCK), pooled(k, k.mean(dim=1), K_BLOCK)
    return index_of_means(pooled_q, pooled_k, -(-k.shape[1] // K_BLOCK), topk)


def index_of_means(pooled_q: Tensor, pooled_k: Tensor, blocks: int, topk: float) -> Tensor:
    """The list from block means: pooled_q [b, h, q_blocks, d], pooled_k (smoothed) [b, h, room_for(blocks), d]."""
    score = pooled_q @ pooled_k.transpose(2, 3)  # in the input's dtype, as the model was trained
    return best_blocks(score, blocks, topk)


def room_for(blocks: int) -> int:
    """How many scores a row of them has room for, so that each row begins at 16 bytes."""
    return -(-blocks // ROOM.value) * ROOM.value


def best_blocks(score: Tensor, blocks: int, topk: float, warps: int | None = None) -> Tensor:
    """score [b, h, q_blocks, room_for(blocks)], contiguous -> int32 [b, h, q_blocks, kept], ascending."""
    b, h, lines, room = score.shape
    keep = min(blocks, max(1, int(topk * blocks)))
    index = torch.empty((b, h, lines, keep), dtype=torch.int32, device=score.device)
    width = triton.next_power_of_2(blocks)
    keep_best[(b * h * lines,)](
        score,
        index,
        blocks,
        room,
        keep,
        WIDTH=width,
        BITS=16 if score.dtype == torch.bfloat16 else 32,
        num_warps=warps or (4 if width <= 2048 else 8),
    )
    return index


def pooled(x: Tensor, mean: Tensor | None, block: int) -> Tensor:
    """The means of x's blocks [b, h, blocks, d]; of keys (they have a mean) with room behind them, not filled."""
    b, length, h, d = x.shape
    blocks = -(-length // block)
    room = blocks if mean is None else room_for(blocks)
    out = torch.empty((b, h, room, d), dtype=x.dtype, device=x.device)
    pool_blocks[(blocks, b * h)](
        x,
        x if mean is None else mean.contiguous(),
        out,
        length,
        h,
        room,
        *x.stride()[:3],
        SMOOTH=mean is not None,
        BLOCK=block,
        DIM=d,
        num_warps=4,
    )
    return out
