"""Softmax attention to few keys with a bias each, as of a video to its prompt, with or without RMSNorm of q.

RMSNorm of q runs over all heads, attention by one head. So a pass reads q for its rows' factors (`rms_rows`), the
norm's weight goes to the keys, which are few, and neither a normalised q nor o in 16 bits is ever written.
"""

import triton
import triton.language as tl

from kernels.elementwise.rows import LEAST, LOG2E


@triton.jit(do_not_specialize=["m"])
def rms_rows(x, out, m, eps, width, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """out [m] float32: 1 / sqrt(mean of squares of x [m, width], contiguous, + eps)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < m
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(0, width, WIDTH):
        column = start + tl.arange(0, WIDTH)
        at = x + row.to(tl.int64)[:, None] * width + column[None, :]
        some = tl.load(at, mask=real[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)
        total += some * some
    tl.store(out + row, 1.0 / tl.sqrt(tl.sum(total, 1) / width + eps), mask=real)


@triton.jit
def read_keys(k, weight, at, keys, k_row, NORM: tl.constexpr, DIM: tl.constexpr):
    """Keys `at` [n, DIM], times the norm's weight; zeros where there are none."""
    channel = tl.arange(0, DIM)
    key = tl.load(k + at[:, None] * k_row + channel[None, :], mask=at[:, None] < keys, other=0.0)
    if NORM:
        key = (key.to(tl.float32) * tl.load(weight + channel).to(tl.float32)[None, :]).to(key.dtype)
    return key


# Lengths and counts are not specialised: another prompt must not cost a compilation.
@triton.jit(do_not_specialize=["length", "keys", "heads"])
def attend_few(
    q, k, v, bias, o, weight, factor, reach, o_scale,
    length, keys, heads, scale, q_batch, q_row, k_batch, k_row, v_batch, v_row,
    NORM: tl.constexpr, CODES: tl.constexpr, MOST: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr, WHOLE: tl.constexpr, STAGES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Tiles of QUERIES rows of one head, the number of programs apart. q [b, L, h, d], k and v [b, n, h, d] by
    strides, heads side by side; bias [b, n] float32, finite for the first key; o [b, L, h, d] contiguous.
    scale: log2(e) / sqrt(d). WHOLE: n <= KEYS, and they are read once for all tiles; else KEYS at a time.
    NORM: q times factor [b, L] and weight [h, d]. CODES: o by o_scale [b, L], which is reach [b] / MOST."""
    batch, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    row, channel, at = tl.arange(0, QUERIES), tl.arange(0, DIM), tl.arange(0, KEYS)
    q += batch * q_batch + head * DIM
    k += batch * k_batch + head * DIM
    v += batch * v_batch + head * DIM
    bias += batch * keys
    o += (batch * length * heads + head) * DIM
    weight += head * DIM
    inverse = 1.0
    if CODES:
        step = tl.maximum(tl.load(reach + batch), LEAST, propagate_nan=tl.PropagateNan.ALL) * (1.0 / MOST)
        inverse = tl.div_rn(1.0, step)
    if WHOLE:
        key = read_keys(k, weight, at, keys, k_row, NORM, DIM)
        value = tl.load(v + at[:, None] * v_row + channel[None, :], mask=at[:, None] < keys, other=0.0)
        more = tl.load(bias + at, mask=at < keys, other=float("-inf")) * LOG2E
    origin = tl.zeros((), tl.int64)
    tiles = (length + QUERIES - 1) // QUERIES
    # The next tiles' queries come while this one is multiplied.
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES if WHOLE else 1):
        start = (origin + tile) * QUERIES
        real = row[:, None] < length - start
        query = tl.load(q + start * q_row + row[:, None] * q_row + channel[None, :], mask=real, other=0.0)
        inside = row < length - start
        by = tl.zeros((QUERIES, 1), tl.float32) + scale
        if NORM:
            by *= tl.load(factor + batch * length + start + row, mask=inside, other=0.0)[:, None]
        if CODES:  # one head's program says it for all
            steps = tl.zeros((QUERIES,), tl.float32) + step
            tl.store(o_scale + batch * length + start + row, steps, mask=inside & (head == 0))
        if WHOLE:
            score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * by + more[None, :]
            p = tl.exp2(score - tl.max(score, 1)[:, None])
            total = tl.sum(p, 1)
            out = tl.dot(p.to(value.dtype), value, input_precision=PRECISION)
        else:
            out = tl.zeros((QUERIES, DIM), tl.float32)
            peak = tl.full((QUERIES,), float("-inf"), tl.float32)
            total = tl.zeros((QUERIES,), tl.float32)
            for first in tl.range(0, keys, KEYS, num_stages=STAGES):
                there = first + at < keys
                some = first + at
                key = read_keys(k, weight, some, keys, k_row, NORM, DIM)
                value = tl.load(v + some[:, None] * v_row + channel[None, :], mask=there[:, None], other=0.0)
                more = tl.load(bias + first + at, mask=there, other=float("-inf")) * LOG2E
                score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * by + more[None, :]
                higher = tl.maximum(peak, tl.max(score, 1))
                p = tl.exp2(score - higher[:, None])
                shrink = tl.exp2(peak - higher)
                total = total * shrink + tl.sum(p, 1)
                out = tl.dot(p.to(value.dtype), value, out * shrink[:, None], input_precision=PRECISION)
                peak = higher
        tl.store(
            o + (start + row[:, None]) * (heads * DIM) + channel[None, :],
            (out * (inverse / total)[:, None]).to(o.dtype.element_ty),
            mask=real,
        )
