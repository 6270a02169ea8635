"""Softmax attention to few keys with a bias each, as of a video to its prompt: q is read once, o written once."""

import triton
import triton.language as tl

from kernels.elementwise.rows import LOG2E


# Lengths and counts are not specialised: another prompt must not cost a compilation.
@triton.jit(do_not_specialize=["length", "keys", "heads"])
def attend_few(
    q, k, v, bias, o, length, keys, heads, scale, q_batch, q_row, k_batch, k_row, v_batch, v_row,
    PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr,
    DIM: tl.constexpr,
):  # fmt: skip
    """Tiles of QUERIES rows of one head, the number of programs apart. q [b, L, h, d], k and v [b, n, h, d] by
    strides, heads side by side; bias [b, n] float32, finite for the first key; o [b, L, h, d] contiguous.
    scale: log2(e) / sqrt(d). WHOLE: n <= KEYS, and they are read once for all tiles; else KEYS at a time."""
    batch, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    row, channel, at = tl.arange(0, QUERIES), tl.arange(0, DIM), tl.arange(0, KEYS)
    q += batch * q_batch + head * DIM
    k += batch * k_batch + head * DIM
    v += batch * v_batch + head * DIM
    bias += batch * keys
    o += (batch * length * heads + head) * DIM
    if WHOLE:
        there = at[:, None] < keys
        key = tl.load(k + at[:, None] * k_row + channel[None, :], mask=there, other=0.0)
        value = tl.load(v + at[:, None] * v_row + channel[None, :], mask=there, other=0.0)
        more = tl.load(bias + at, mask=at < keys, other=float("-inf")) * LOG2E
    origin = tl.zeros((), tl.int64)
    tiles = (length + QUERIES - 1) // QUERIES
    # The next tiles' queries come while this one is multiplied.
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES if WHOLE else 1):
        start = (origin + tile) * QUERIES
        real = row[:, None] < length - start
        query = tl.load(q + start * q_row + row[:, None] * q_row + channel[None, :], mask=real, other=0.0)
        if WHOLE:
            score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + more[None, :]
            p = tl.exp2(score - tl.max(score, 1)[:, None])
            total = tl.sum(p, 1)
            out = tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
        else:
            out = tl.zeros((QUERIES, DIM), tl.float32)
            peak = tl.full((QUERIES,), float("-inf"), tl.float32)
            total = tl.zeros((QUERIES,), tl.float32)
            for first in tl.range(0, keys, KEYS, num_stages=STAGES):
                there = first + at < keys
                some = (first + at)[:, None]
                key = tl.load(k + some * k_row + channel[None, :], mask=there[:, None], other=0.0)
                value = tl.load(v + some * v_row + channel[None, :], mask=there[:, None], other=0.0)
                more = tl.load(bias + first + at, mask=there, other=float("-inf")) * LOG2E
                score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + more[None, :]
                higher = tl.maximum(peak, tl.max(score, 1))
                p = tl.exp2(score - higher[:, None])
                shrink = tl.exp2(peak - higher)
                total = total * shrink + tl.sum(p, 1)
                out = tl.dot(p.to(value.dtype), value, out * shrink[:, None], input_precision=PRECISION)
                peak = higher
        tl.store(
            o + (start + row[:, None]) * (heads * DIM) + channel[None, :],
            (out * (1.0 / total)[:, None]).to(o.dtype.element_ty),
            mask=real,
        )
