"""GELU and quantisation of rows, alone or together."""

# pyright: reportGeneralTypeIssues=false
# ruff: noqa: RUF005
# (Triton's types take its ranges for no iterators; its language has no unpacking)
import triton
import triton.language as tl

from kernels.elementwise.rows import LOG2E, load_row, store_row

TWICE_ROOT = tl.constexpr(2 * 0.7978845608028654)  # 2 sqrt(2 / pi)


@triton.jit(do_not_specialize=["rows"])
def activate_rows(
    x, out, out_scale, rows,
    GELU: tl.constexpr, QUANTIZE: tl.constexpr, MOST: tl.constexpr, INTEGER: tl.constexpr,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x, out [rows, WIDTH] contiguous. GELU in the tanh form, which is x times a sigmoid: no tanh to call."""
    start = tl.zeros((), tl.int64)
    for i in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        index = start + i
        row = load_row(x + index * WIDTH, WIDTH, CHUNK)
        if GELU:
            bent = ()
            for c in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
                v = row[c]
                twice = v * (TWICE_ROOT + TWICE_ROOT * 0.044715 * v * v)
                bent = bent + (v / (1.0 + tl.exp2(-twice * LOG2E)),)
            row = bent
        store_row(row, out, out_scale, index, QUANTIZE, MOST, INTEGER, WIDTH, CHUNK)
