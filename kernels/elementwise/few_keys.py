"""Softmax attention to few keys with a bias each, as of a video to its prompt: q is read once, o written once."""

import triton
import triton.language as tl

from kernels.elementwise.rows import LOG2E


# Lengths and counts are not specialised: another prompt must not cost a compilation.
@triton.jit(do_not_specialize=["length", "keys", "heads"])
def attend_few(
    q, k, v, bias, o, length, keys, heads, scale, q_batch, q_row, k_batch, k_row, v_batch, v_row,
    PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """QUERIES rows of one head. q [b, L, h, d], k and v [b, n, h, d] by strides, heads side by side; bias [b, n]
    float32, finite for the first key; o [b, L, h, d] contiguous. scale: log2(e) / sqrt(d)."""
    batch, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    row, channel = tl.arange(0, QUERIES), tl.arange(0, DIM)
    start = tl.program_id(0).to(tl.int64) * QUERIES
    real = row[:, None] < length - start
    q += batch * q_batch + start * q_row + head * DIM
    k += batch * k_batch + head * DIM
    v += batch * v_batch + head * DIM
    query = tl.load(q + row[:, None] * q_row + channel[None, :], mask=real, other=0.0)
    out = tl.zeros((QUERIES, DIM), tl.float32)
    peak = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    for first in tl.range(0, keys, KEYS, num_stages=STAGES):
        at = first + tl.arange(0, KEYS)
        there = at < keys
        key = tl.load(k + at[:, None] * k_row + channel[None, :], mask=there[:, None], other=0.0)
        value = tl.load(v + at[:, None] * v_row + channel[None, :], mask=there[:, None], other=0.0)
        more = tl.load(bias + batch * keys + at, mask=there, other=float("-inf"))
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + (more * LOG2E)[None, :]
        higher = tl.maximum(peak, tl.max(score, 1))
        p = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(p, 1)
        out = tl.dot(p.to(value.dtype), value, out * shrink[:, None], input_precision=PRECISION)
        peak = higher
    o += ((batch * length + start) * heads + head) * DIM
    tl.store(
        o + row[:, None] * (heads * DIM) + channel[None, :],
        (out / total[:, None]).to(o.dtype.element_ty),
        mask=real,
    )
