"""RMSNorm of q and k over all channels and their rotation, in one launch."""

# pyright: reportGeneralTypeIssues=false
# ruff: noqa: RUF005
# (Triton's types take its ranges for no iterators; its language has no unpacking)
import triton
import triton.language as tl

from kernels.elementwise.rows import load_row, squares, store_chunk


@triton.jit
def norm_rotate(
    row, weight, cosines, sines, out, eps,
    ROTATE: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A row normalised, rounded as out is, rotated and stored."""
    weights = load_row(weight, WIDTH, CHUNK)
    rate = tl.rsqrt(squares(row, WIDTH, CHUNK, 0.0) / WIDTH + eps)
    for c in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
        chunk = (row[c] * rate * weights[c]).to(out.dtype.element_ty).to(tl.float32)
        if ROTATE:
            even, odd = tl.split(tl.reshape(chunk, (CHUNK // 2, 2)))
            pair = tl.join(even * cosines[c] - odd * sines[c], even * sines[c] + odd * cosines[c])
            chunk = tl.reshape(pair, (CHUNK,))
        store_chunk(out, chunk, c, WIDTH, CHUNK)


@triton.jit
def load_angles(at, WIDTH: tl.constexpr, PAIRS: tl.constexpr, CHUNK: tl.constexpr):
    """cos or sin of every channel pair of a row: each head's PAIRS again."""
    lane = tl.arange(0, CHUNK // 2)
    angles = ()
    for c in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
        # Past the end of the row the pairs of some head are read: the table has them.
        angles = angles + (tl.load(at + (c * (CHUNK // 2) + lane) % PAIRS),)
    return angles


# Lengths are not specialised: a new size must not cost a compilation in the middle of a render.
@triton.jit(do_not_specialize=["length"])
def rms_norm_rope(
    q, k, q_weight, k_weight, table, q_out, k_out, length, q_batch, q_row, k_batch, k_row, eps,
    BOTH: tl.constexpr, ROTATE: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """A row of q, and with BOTH of k.

    q, k [b, L, WIDTH] by strides; table [2, L, PAIRS] float32; q_out, k_out [b, L, WIDTH] contiguous.
    """
    batch = tl.program_id(1).to(tl.int64)
    q += batch * q_batch
    k += batch * k_batch
    row = tl.program_id(0).to(tl.int64)
    at = (batch * length + row) * WIDTH
    # All that is read is asked for before anything is stored: no load is moved up over a store.
    query = load_row(q + row * q_row, WIDTH, CHUNK)
    if BOTH:
        key = load_row(k + row * k_row, WIDTH, CHUNK)
    cosines = ()
    sines = ()
    if ROTATE:
        cosines = load_angles(table + row * PAIRS, WIDTH, PAIRS, CHUNK)
        sines = load_angles(table + (length + row) * PAIRS, WIDTH, PAIRS, CHUNK)
    norm_rotate(query, q_weight, cosines, sines, q_out + at, eps, ROTATE, WIDTH, CHUNK)
    if BOTH:
        norm_rotate(key, k_weight, cosines, sines, k_out + at, eps, ROTATE, WIDTH, CHUNK)
