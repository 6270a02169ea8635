"""Rows in registers: how the element-wise kernels load, store, normalise and quantise one. Triton device code.

A row of WIDTH channels is held as CHUNKS tensors of CHUNK lanes, so that 1536 or 5120 channels are not padded to a
power of two. CHUNK is 8 elements a thread: accesses of 16 bytes. Only the last chunk is masked.
"""

# pyright: reportGeneralTypeIssues=false
# ruff: noqa: RUF005
# (Triton's types take its ranges for no iterators; its language has no unpacking)
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: added and taken away, it rounds half to even
LEAST = tl.constexpr(1e-12)


@triton.jit
def load_row(at, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """The row at a pointer, as float32; zeros past its end."""
    lane = tl.arange(0, CHUNK)
    row = ()
    for c in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
        if (c + 1) * CHUNK <= WIDTH:
            chunk = tl.load(at + c * CHUNK + lane)
        else:
            chunk = tl.load(at + c * CHUNK + lane, mask=c * CHUNK + lane < WIDTH, other=0.0)
        row = row + (chunk.to(tl.float32),)
    return row


@triton.jit
def store_chunk(at, chunk, c: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    lane = tl.arange(0, CHUNK)
    if (c + 1) * CHUNK <= WIDTH:
        tl.store(at + c * CHUNK + lane, chunk.to(at.dtype.element_ty))
    else:
        tl.store(at + c * CHUNK + lane, chunk.to(at.dtype.element_ty), mask=c * CHUNK + lane < WIDTH)


@triton.jit
def total(row, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    """Sum of a row."""
    lanes = tl.zeros((CHUNK,), tl.float32)
    for c in tl.static_range(CHUNKS):
        lanes += row[c]
    return tl.sum(lanes, 0)


@triton.jit
def squares(row, WIDTH: tl.constexpr, CHUNK: tl.constexpr, mean):
    """Sum of (x - mean)^2 over a row."""
    lane = tl.arange(0, CHUNK)
    lanes = tl.zeros((CHUNK,), tl.float32)
    for c in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
        away = row[c] - mean
        if (c + 1) * CHUNK > WIDTH:
            away = tl.where(c * CHUNK + lane < WIDTH, away, 0.0)
        lanes += away * away
    return tl.sum(lanes, 0)


@triton.jit
def largest(row, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    """Largest magnitude of a row whose lanes past the end are 0; infinity where something is no number.

    A maximum passes over NaN: without this a row with one would be scaled, and look, like any other.
    """
    lanes = tl.zeros((CHUNK,), tl.float32)
    for c in tl.static_range(CHUNKS):
        lanes = tl.maximum(lanes, tl.where(row[c] == row[c], tl.abs(row[c]), float("inf")))
    return tl.max(lanes, 0)


@triton.jit
def store_row(
    row, out, out_scale, index,
    QUANTIZE: tl.constexpr, MOST: tl.constexpr, INTEGER: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Row `index` of a contiguous [m, WIDTH]; with QUANTIZE as codes up to MOST, the scale beside it.

    By the arithmetic of `quantize_rows`, to the last bit.
    """
    CHUNKS: tl.constexpr = (WIDTH + CHUNK - 1) // CHUNK
    out += index * WIDTH
    inverse = 1.0
    if QUANTIZE:
        scale = tl.maximum(largest(row, CHUNK, CHUNKS), LEAST) * (1.0 / MOST)
        inverse = tl.div_rn(1.0, scale)
        tl.store(out_scale + index, scale)
    for c in tl.static_range(CHUNKS):
        chunk = row[c]
        if QUANTIZE:
            chunk = chunk * inverse
            if INTEGER:
                chunk = (chunk + ROUNDER) - ROUNDER
        store_chunk(out, chunk, c, WIDTH, CHUNK)
