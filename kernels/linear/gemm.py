"""out = x W^T + bias, or its GELU as fp8 codes: one Triton GEMM for fp8 and int8 codes.

A program takes output tiles in a grouped order, so that the operands of neighbours are met in L2. Loads are tensor
descriptors (TMA) or pointers; products are wgmma on 9.0, mma.sync on 8.x and 12.0.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportAssignmentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false
# (Triton's types know neither num_warps in a launch nor plain numbers beside its tensors)
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.linear.ends import end, halves, place
from kernels.linear.weights import Tiles
from kernels.quantized import FP8, Rows
from kernels.tuning import linear as tuning

WEIGHT_BLOCK = tl.constexpr(128)  # side of a checkpoint's scale tiles


@triton.jit
def finish(
    y, row, column, x_scale, w_scale, bias, out, out_scale, m, n,
    BIAS: tl.constexpr, CODES: tl.constexpr, APPROXIMATE: tl.constexpr, TILES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Scales, bias and activation of one piece of a tile, and its store."""
    ROWS: tl.constexpr = y.shape[0]
    COLUMNS: tl.constexpr = y.shape[1]
    r, c = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    row_scale = tl.load(x_scale + r, mask=r < m, other=0.0)[:, None]
    column_scale = 1.0 if TILES else tl.load(w_scale + c, mask=c < n, other=0.0)[None, :]
    added = tl.load(bias + c, mask=c < n, other=0.0)[None, :] if BIAS else 0.0
    code_scale = tl.load(out_scale + r, mask=r < m, other=1.0)[:, None] if CODES else 1.0
    y = end(y, row_scale, column_scale, added, code_scale, BIAS, CODES, APPROXIMATE, TILES)
    if DESCRIPTORS:
        out.store([row, column], y.to(out.dtype))
    else:
        real = (r < m)[:, None] & (c < n)[None, :]
        tl.store(out + r.to(tl.int64)[:, None] * n + c[None, :], y.to(out.dtype.element_ty), mask=real)


@triton.jit
def operands(
    x, w, row, column, step, m, n, k,
    DESCRIPTORS: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Codes [ROWS, DEPTH] of x and [COLUMNS, DEPTH] of w. Rows past the end repeat others or are zero."""
    if DESCRIPTORS:
        a = x.load([row, step * DEPTH])
        b = w.load([column, step * DEPTH])
    else:
        r = ((row + tl.arange(0, ROWS)) % m).to(tl.int64)
        c = ((column + tl.arange(0, COLUMNS)) % n).to(tl.int64)
        d = step * DEPTH + tl.arange(0, DEPTH)
        if EVEN:
            a = tl.load(x + r[:, None] * k + d[None, :])
            b = tl.load(w + c[:, None] * k + d[None, :])
        else:
            a = tl.load(x + r[:, None] * k + d[None, :], mask=(d < k)[None, :], other=0.0)
            b = tl.load(w + c[:, None] * k + d[None, :], mask=(d < k)[None, :], other=0.0)
    return a, b


# The number of rows is not specialised: a new length must not cost a compilation in the middle of a render.
@triton.jit(do_not_specialize=["m"])
def multiply(
    x, w, x_scale, w_scale, bias, out, out_scale, m, n, k,
    BIAS: tl.constexpr, CODES: tl.constexpr, APPROXIMATE: tl.constexpr, TILES: tl.constexpr,
    DESCRIPTORS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, PIECES: tl.constexpr,
    PROMOTE: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """x [m, k] and w [n, k] codes, out [m, n]: descriptors or pointers. x_scale [m], w_scale [n] (TILES:
    [ceil(n / 128), ceil(k / 128)]), bias [n]; out_scale [m] where GELU goes out as CODES.
    """
    INTEGER: tl.constexpr = (x.dtype if DESCRIPTORS else x.dtype.element_ty) == tl.int8
    KIND: tl.constexpr = tl.int32 if INTEGER else tl.float32
    row_tiles, column_tiles, steps = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS), tl.cdiv(k, DEPTH)
    tiles = row_tiles * column_tiles
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN):
        row, column = place(tile, row_tiles, column_tiles, GROUP)
        row *= ROWS
        column *= COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32 if TILES or PROMOTE else KIND)
        if PROMOTE and not TILES:
            # A loop within a loop: a branch in one loop over all steps would have every product waited for.
            for start in tl.range(0, steps, PROMOTE):
                part = tl.zeros((ROWS, COLUMNS), KIND)
                for step in tl.range(start, tl.minimum(start + PROMOTE, steps)):
                    a, b = operands(x, w, row, column, step, m, n, k, DESCRIPTORS, EVEN, ROWS, COLUMNS, DEPTH)
                    part = tl.dot(a, tl.trans(b), part, out_dtype=KIND)
                total += part
        else:
            for step in tl.range(0, steps):
                a, b = operands(x, w, row, column, step, m, n, k, DESCRIPTORS, EVEN, ROWS, COLUMNS, DEPTH)
                if TILES:
                    wide = column // WEIGHT_BLOCK * tl.cdiv(k, WEIGHT_BLOCK) + step * DEPTH // WEIGHT_BLOCK
                    total += tl.dot(a, tl.trans(b), out_dtype=KIND).to(tl.float32) * tl.load(w_scale + wide)
                else:
                    total = tl.dot(a, tl.trans(b), total, out_dtype=KIND)
        WIDE: tl.constexpr = COLUMNS // PIECES
        if PIECES == 1:
            finish(
                total, row, column, x_scale, w_scale, bias, out, out_scale, m, n,
                BIAS, CODES, APPROXIMATE, TILES, DESCRIPTORS,
            )  # fmt: skip
        else:
            left, right = halves(total)
            for side in tl.static_range(2):
                half = left if side == 0 else right
                at = column + side * (COLUMNS // 2)
                if PIECES == 2:
                    finish(
                        half, row, at, x_scale, w_scale, bias, out, out_scale, m, n,
                        BIAS, CODES, APPROXIMATE, TILES, DESCRIPTORS,
                    )  # fmt: skip
                else:
                    one, other = halves(half)
                    finish(
                        one, row, at, x_scale, w_scale, bias, out, out_scale, m, n,
                        BIAS, CODES, APPROXIMATE, TILES, DESCRIPTORS,
                    )  # fmt: skip
                    finish(
                        other, row, at + WIDE, x_scale, w_scale, bias, out, out_scale, m, n,
                        BIAS, CODES, APPROXIMATE, TILES, DESCRIPTORS,
                    )  # fmt: skip


def linear(
    x: Rows,
    weight: Rows | Tiles,
    bias: Tensor | None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    config: tuning.Gemm | tuning.GemmHopper | None = None,
) -> Tensor:
    """`kernels.linear.reference.linear` in one kernel. `kernels.switch.linear_obstacle` says what it takes."""
    return _launch(x, weight, bias, dtype, None, config)


def linear_gelu_rows(
    x: Rows,
    weight: Rows,
    bias: Tensor | None,
    scale: Tensor,
    config: tuning.Gemm | tuning.GemmHopper | None = None,
) -> Rows:
    """gelu(x W^T + bias) as fp8 codes, row i by scale[i]: of `kernels.linear.reach.bound`."""
    if x.codes.dtype == torch.int8:
        raise ValueError("int8 codes want a row's own largest element: quantise after the product")
    return Rows(_launch(x, weight, bias, x.codes.dtype, scale, config), scale)


def kind_of(weight: Rows | Tiles) -> tuning.Kind:
    if isinstance(weight, Tiles):
        return "tiles"
    if weight.codes.dtype == torch.int8:  # its sums are exact
        return "int8"
    return "fp8" if weight.codes.shape[1] <= tuning.LONGEST_FAST_SUM else "fp8 long"


def _launch(
    x: Rows,
    weight: Rows | Tiles,
    bias: Tensor | None,
    dtype: torch.dtype,
    out_scale: Tensor | None,
    config: tuning.Gemm | tuning.GemmHopper | None,
) -> Tensor:
    (m, k), n = x.codes.shape, weight.codes.shape[0]
    device = x.codes.device
    c = config or tuning.of_device(device, kind_of(weight))
    if isinstance(weight, Tiles) and isinstance(c, tuning.Gemm) and max(c.columns, c.depth) > WEIGHT_BLOCK.value:
        raise ValueError(f"a tile of {c.columns} x {c.depth} spans several scales of a checkpoint's weight")
    out = torch.empty((m, n), dtype=dtype, device=device)
    if isinstance(c, tuning.GemmHopper):
        if isinstance(weight, Tiles) or x.codes.dtype != FP8 or dtype not in (torch.bfloat16, FP8):
            raise ValueError("the GEMM written out for Hopper takes fp8 rows and gives bfloat16 or fp8")
        from kernels.linear import gemm_gluon  # nothing to import where it does not run

        with torch.cuda.device_of(out):
            gemm_gluon.linear(x, weight, bias, out, out_scale, c)
        return out
    a, b, target = x.codes, weight.codes, out
    if c.descriptors == "host":
        a = TensorDescriptor.from_tensor(a, [c.rows, c.depth])
        b = TensorDescriptor.from_tensor(b, [c.columns, c.depth])
        target = TensorDescriptor.from_tensor(out, [c.rows, c.columns // c.pieces])
    tiles = -(-m // c.rows) * -(-n // c.columns)
    grid = min(tiles, c.programs * _multiprocessors(device)) if c.programs else tiles
    with torch.cuda.device_of(out):  # Triton launches on the current device
        multiply[(grid,)](
            a,
            b,
            x.scale,
            weight.scale,
            x.scale if bias is None else bias,
            target,
            x.scale if out_scale is None else out_scale,
            m,
            n,
            k,
            BIAS=bias is not None,
            CODES=out_scale is not None,
            APPROXIMATE=device.type == "cuda",  # the interpreter knows no instruction for it
            TILES=isinstance(weight, Tiles),
            DESCRIPTORS=c.descriptors == "host",
            EVEN=k % c.depth == 0,
            ROWS=c.rows,
            COLUMNS=c.columns,
            DEPTH=c.depth,
            GROUP=c.group,
            PIECES=c.pieces,
            PROMOTE=c.promote,
            FLATTEN=c.programs > 0 and c.promote == 0,
            num_warps=c.warps,
            num_stages=c.stages,
        )
    return out


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
