"""RMSNorm of q and k over all channels and their rotation, in one launch; sums of blocks of rows on the way."""

# pyright: reportGeneralTypeIssues=false
# ruff: noqa: RUF005
# (Triton's types take its ranges for no iterators; its language has no unpacking)
import triton
import triton.language as tl

from kernels.elementwise.rows import load_row, squares, store_chunk


@triton.jit
def norm_rotate(
    x, weights, cosines, sines, out, eps,
    ROTATE: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One row, normalised, rounded as out is, rotated, rounded, stored; returned as float32 chunks."""
    CHUNKS: tl.constexpr = (WIDTH + CHUNK - 1) // CHUNK
    row = load_row(x, WIDTH, CHUNK)
    rate = tl.rsqrt(squares(row, WIDTH, CHUNK, 0.0) / WIDTH + eps)
    turned = ()
    for c in tl.static_range(CHUNKS):
        chunk = (row[c] * rate * weights[c]).to(out.dtype.element_ty).to(tl.float32)
        if ROTATE:
            even, odd = tl.split(tl.reshape(chunk, (CHUNK // 2, 2)))
            pair = tl.join(even * cosines[c] - odd * sines[c], even * sines[c] + odd * cosines[c])
            chunk = tl.reshape(pair, (CHUNK,)).to(out.dtype.element_ty).to(tl.float32)
        store_chunk(out, chunk, c, WIDTH, CHUNK)
        turned = turned + (chunk,)
    return turned


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
    q, k, q_weight, k_weight, table, q_out, k_out, q_sums, k_sums, length, q_batch, q_row, k_batch, k_row, eps,
    BOTH: tl.constexpr, ROTATE: tl.constexpr, SUMS: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """ROWS rows of q, and with BOTH of k, one after the other.

    q, k [b, L, WIDTH] by strides; table [2, L, PAIRS] float32; q_out, k_out [b, L, WIDTH] contiguous;
    q_sums, k_sums [b, programs, WIDTH] float32: sums of the ROWS rotated rows (SUMS).
    """
    CHUNKS: tl.constexpr = (WIDTH + CHUNK - 1) // CHUNK
    batch = tl.program_id(1).to(tl.int64)
    q += batch * q_batch
    k += batch * k_batch
    q_weights = load_row(q_weight, WIDTH, CHUNK)
    k_weights = load_row(k_weight, WIDTH, CHUNK)
    first = tl.program_id(0).to(tl.int64) * ROWS
    q_total = ()
    k_total = ()
    for _ in tl.static_range(CHUNKS):
        q_total = q_total + (tl.zeros((CHUNK,), tl.float32),)
        k_total = k_total + (tl.zeros((CHUNK,), tl.float32),)
    for i in tl.range(0, tl.minimum(ROWS, length - first).to(tl.int32), num_stages=STAGES):
        row = first + i
        at = (batch * length + row) * WIDTH
        cosines = ()
        sines = ()
        if ROTATE:
            cosines = load_angles(table + row * PAIRS, WIDTH, PAIRS, CHUNK)
            sines = load_angles(table + (length + row) * PAIRS, WIDTH, PAIRS, CHUNK)
        q_turned = norm_rotate(q + row * q_row, q_weights, cosines, sines, q_out + at, eps, ROTATE, WIDTH, CHUNK)
        if BOTH:
            k_turned = norm_rotate(
                k + row * k_row, k_weights, cosines, sines, k_out + at, eps, ROTATE, WIDTH, CHUNK
            )
        if SUMS:
            q_next = ()
            k_next = ()
            for c in tl.static_range(CHUNKS):
                q_next = q_next + (q_total[c] + q_turned[c],)
                k_next = k_next + (k_total[c] + k_turned[c],)
            q_total = q_next
            k_total = k_next
    if SUMS:
        at = (batch * tl.num_programs(0) + tl.program_id(0)) * WIDTH
        for c in tl.static_range(CHUNKS):
            store_chunk(q_sums + at, q_total[c], c, WIDTH, CHUNK)
            store_chunk(k_sums + at, k_total[c], c, WIDTH, CHUNK)
