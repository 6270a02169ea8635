"""GELU and quantisation of rows, alone or together."""

# pyright: reportGeneralTypeIssues=false
# ruff: noqa: RUF005
# (Triton's types take its ranges for no iterators; its language has no unpacking)
import triton
import triton.language as tl

from kernels.elementwise.rows import LOG2E, load_row, store_row

TWICE_ROOT = tl.constexpr(2 * 0.7978845608028654)  # 2 sqrt(2 / pi)


@triton.jit
def activate_rows(
    x, out, out_scale,
    GELU: tl.constexpr, QUANTIZE: tl.constexpr, MOST: tl.constexpr, INTEGER: tl.constexpr,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A row of x, out [m, WIDTH] contiguous. GELU in the tanh form, which is x times a sigmoid: no tanh to call."""
    index = tl.program_id(0).to(tl.int64)
    row = load_row(x + index * WIDTH, WIDTH, CHUNK)
    if GELU:
        bent = ()
        for c in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
            v = row[c]
            twice = v * (TWICE_ROOT + TWICE_ROOT * 0.044715 * v * v)
            bent = bent + (v / (1.0 + tl.exp2(-twice * LOG2E)),)
        row = bent
    store_row(row, out, out_scale, index, QUANTIZE, MOST, INTEGER, WIDTH, CHUNK)
