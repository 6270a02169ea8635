"""What a GEMM does beside its products: where its tiles lie, and what becomes of the sums. For Triton and Gluon."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# (Triton's types know no plain numbers beside its tensors)
import math

import triton
import triton.language as tl

SQRT_2_PI = tl.constexpr(math.sqrt(2 / math.pi))
LOG2E = tl.constexpr(math.log2(math.e))


@triton.jit
def place(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """(row, column) in tiles: GROUP tiles down, then one to the right."""
    first = tile // (GROUP * column_tiles) * GROUP
    tall = tl.minimum(row_tiles - first, GROUP)
    within = tile % (GROUP * column_tiles)
    return first + within % tall, within // tall


@triton.jit
def halves(tile):
    """A tile's left and right half."""
    ROWS: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def gelu(y, APPROXIMATE: tl.constexpr):
    """GELU by its tanh form. APPROXIMATE: one special-function instruction (error 5e-4 of y) instead of two."""
    u = y * (1 + y * y * 0.044715) * SQRT_2_PI
    if APPROXIMATE:
        t = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], tl.float32, is_pure=True, pack=1)
        return y * 0.5 * (1 + t)
    return y / (1 + tl.exp2(u * -2 * LOG2E))


@triton.jit
def end(
    y, row_scale, column_scale, bias, code_scale,
    BIAS: tl.constexpr, CODES: tl.constexpr, APPROXIMATE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """What is stored of the sums y; CODES: GELU in fp8. The others broadcast to y, or are not looked at."""
    y = y.to(tl.float32) * row_scale
    if not TILES:
        y *= column_scale
    if BIAS:
        y += bias.to(tl.float32)
    if CODES:
        y = gelu(y, APPROXIMATE) * (1.0 / code_scale)
    return y
