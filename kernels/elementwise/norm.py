"""LayerNorm with the residual before it and the quantisation behind it; inputs read once, outputs written once."""

# pyright: reportGeneralTypeIssues=false
# ruff: noqa: RUF005
# (Triton's types take its ranges for no iterators; its language has no unpacking)
import triton
import triton.language as tl

from kernels.elementwise.rows import load_row, squares, store_chunk, store_row, total


# Lengths are not specialised: a new size must not cost a compilation in the middle of a render.
@triton.jit(do_not_specialize=["length"])
def residual_norm(
    x, y, gate, scale, shift, summed, out, out_scale, length, gate_batch, scale_batch, eps,
    RESIDUAL: tl.constexpr, GATED: tl.constexpr, NORM: tl.constexpr, MODULATE: tl.constexpr,
    QUANTIZE: tl.constexpr, MOST: tl.constexpr, INTEGER: tl.constexpr,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """summed = x + y * gate (RESIDUAL); out = its LayerNorm * (1 + scale) + shift (MODULATE) or * scale + shift.

    x, y, summed, out [b, L, WIDTH] contiguous; gate [b, WIDTH] by its batch stride, scale and shift [b, WIDTH] by
    theirs (0: one for all). A program takes a row.
    """
    CHUNKS: tl.constexpr = (WIDTH + CHUNK - 1) // CHUNK
    batch = tl.program_id(1).to(tl.int64)
    gate += batch * gate_batch
    scale += batch * scale_batch
    shift += batch * scale_batch
    index = batch * length + tl.program_id(0)
    row = load_row(x + index * WIDTH, WIDTH, CHUNK)
    if RESIDUAL:
        more = load_row(y + index * WIDTH, WIDTH, CHUNK)
        if GATED:
            gates = load_row(gate, WIDTH, CHUNK)
        sums = ()
        for c in tl.static_range(CHUNKS):
            part = more[c]
            if GATED:  # rounded before it is added, as the model does
                part = (part * gates[c]).to(x.dtype.element_ty).to(tl.float32)
            # What is normalised is what is stored.
            sums = sums + ((row[c] + part).to(x.dtype.element_ty).to(tl.float32),)
            store_chunk(summed + index * WIDTH, sums[c], c, WIDTH, CHUNK)
        row = sums
    if NORM:
        mean = total(row, CHUNK, CHUNKS) / WIDTH
        rate = tl.rsqrt(squares(row, WIDTH, CHUNK, mean) / WIDTH + eps)
        scales = load_row(scale, WIDTH, CHUNK)
        shifts = load_row(shift, WIDTH, CHUNK)
        normed = ()
        for c in tl.static_range(CHUNKS):
            factor = 1.0 + scales[c] if MODULATE else scales[c]
            chunk = (row[c] - mean) * rate * factor + shifts[c]
            # Past the end scale and shift are 0, but 1 + scale is not.
            if MODULATE and (c + 1) * CHUNK > WIDTH:
                chunk = tl.where(c * CHUNK + tl.arange(0, CHUNK) < WIDTH, chunk, 0.0)
            normed = normed + (chunk,)
        store_row(normed, out, out_scale, index, QUANTIZE, MOST, INTEGER, WIDTH, CHUNK)
