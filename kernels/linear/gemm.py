"""out = residual + gate * gelu(x W^T + bias): one Triton GEMM for fp8 and int8 codes.

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
    y, row, column, x_scale, w_scale, bias, residual, gate, out, out_scale, m, n, length,
    BIAS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, GATE: tl.constexpr, CODES: tl.constexpr,
    TILES: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Scales, bias, activation and residual of one piece of a tile, and its store."""
    ROWS: tl.constexpr = y.shape[0]
    COLUMNS: tl.constexpr = y.shape[1]
    r, c = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    real = (r < m)[:, None] & (c < n)[None, :]
    row_scale = tl.load(x_scale + r, mask=r < m, other=0.0)[:, None]
    column_scale = 1.0 if TILES else tl.load(w_scale + c, mask=c < n, other=0.0)[None, :]
    added = tl.load(bias + c, mask=c < n, other=0.0)[None, :] if BIAS else 0.0
    factor, beside, code_scale = 1.0, 0.0, 1.0
    if GATE == "one":
        factor = tl.load(gate + c, mask=c < n, other=0.0)[None, :]
    elif GATE == "many":  # a tile may span two batches: each row looks up its own
        factor = tl.load(gate + (r // length)[:, None] * n + c[None, :], mask=real, other=0.0)
    if RESIDUAL:
        if DESCRIPTORS != "none":
            beside = residual.load([row, column])
        else:
            beside = tl.load(residual + r.to(tl.int64)[:, None] * n + c[None, :], mask=real, other=0.0)
    if CODES:
        code_scale = tl.load(out_scale + r, mask=r < m, other=1.0)[:, None]
    y = end(
        y, row_scale, column_scale, added, factor, beside, code_scale, BIAS, GELU, RESIDUAL, GATE, CODES, TILES
    )  # fmt: skip
    if DESCRIPTORS != "none":
        out.store([row, column], y.to(out.dtype))
    else:
        tl.store(out + r.to(tl.int64)[:, None] * n + c[None, :], y.to(out.dtype.element_ty), mask=real)


@triton.jit
def operands(
    x, w, row, column, step, m, n, k,
    DESCRIPTORS: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Codes [ROWS, DEPTH] of x and [COLUMNS, DEPTH] of w. Rows past the end repeat others or are zero."""
    if DESCRIPTORS != "none":
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
@triton.jit(do_not_specialize=["m", "length"])
def multiply(
    x, w, x_scale, w_scale, bias, residual, gate, out, out_scale, m, n, k, length,
    BIAS: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, GATE: tl.constexpr, CODES: tl.constexpr,
    TILES: tl.constexpr, DESCRIPTORS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, PIECES: tl.constexpr,
    PROMOTE: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """x [m, k] and w [n, k] codes, out [m, n]: descriptors or pointers. x_scale [m], w_scale [n] (TILES:
    [ceil(n / 128), ceil(k / 128)]), bias [n], residual [m, n], gate [b, n] float32 with m = b * length;
    out_scale [m] where the output is CODES.
    """
    if DESCRIPTORS == "device":
        x = tl.make_tensor_descriptor(x, [m, k], [k, 1], [ROWS, DEPTH])
        w = tl.make_tensor_descriptor(w, [n, k], [k, 1], [COLUMNS, DEPTH])
        out = tl.make_tensor_descriptor(out, [m, n], [n, 1], [ROWS, COLUMNS // PIECES])
        if RESIDUAL:
            residual = tl.make_tensor_descriptor(residual, [m, n], [n, 1], [ROWS, COLUMNS // PIECES])
    INTEGER: tl.constexpr = (x.dtype if DESCRIPTORS != "none" else x.dtype.element_ty) == tl.int8
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
                total, row, column, x_scale, w_scale, bias, residual, gate, out, out_scale, m, n, length,
                BIAS, GELU, RESIDUAL, GATE, CODES, TILES, DESCRIPTORS,
            )  # fmt: skip
        else:
            left, right = halves(total)
            for side in tl.static_range(2):
                half = left if side == 0 else right
                at = column + side * (COLUMNS // 2)
                if PIECES == 2:
                    finish(
                        half, row, at, x_scale, w_scale, bias, residual, gate, out, out_scale, m, n, length,
                        BIAS, GELU, RESIDUAL, GATE, CODES, TILES, DESCRIPTORS,
                    )  # fmt: skip
                else:
                    one, other = halves(half)
                    finish(
                        one, row, at, x_scale, w_scale, bias, residual, gate, out, out_scale, m, n, length,
                        BIAS, GELU, RESIDUAL, GATE, CODES, TILES, DESCRIPTORS,
                    )  # fmt: skip
                    finish(
                        other, row, at + WIDE, x_scale, w_scale, bias, residual, gate, out, out_scale, m, n, length,
                        BIAS, GELU, RESIDUAL, GATE, CODES, TILES, DESCRIPTORS,
                    )  # fmt: skip


def linear(
    x: Rows,
    weight: Rows | Tiles,
    bias: Tensor | None,
    *,
    gelu: bool = False,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    config: tuning.Gemm | tuning.GemmHopper | None = None,
) -> Tensor:
    """`kernels.linear.reference.linear` in one kernel. `kernels.switch.linear_obstacle` says what it takes."""
    return _launch(x, weight, bias, gelu, residual, gate, dtype, None, config)


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
    return Rows(_launch(x, weight, bias, True, None, None, x.codes.dtype, scale, config), scale)


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
    gelu: bool,
    residual: Tensor | None,
    gate: Tensor | None,
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
    residual = None if residual is None else residual.contiguous()
    gate = None if gate is None else gate.float().contiguous()
    activation = ("approximate" if c.approximate and device.type == "cuda" else "exact") if gelu else "none"
    if isinstance(c, tuning.GemmHopper):
        if isinstance(weight, Tiles) or x.codes.dtype != FP8 or dtype not in (torch.bfloat16, FP8):
            raise ValueError("the GEMM written out for Hopper takes fp8 rows and gives bfloat16 or fp8")
        if residual is not None and residual.dtype != torch.bfloat16:
            raise ValueError(f"the residual is {residual.dtype}: the GEMM written out for Hopper takes bfloat16")
        from kernels.linear import gemm_gluon  # nothing to import where it does not run

        with torch.cuda.device_of(out):
            gemm_gluon.linear(x, weight, bias, activation, residual, gate, out, out_scale, c)
        return out
    a, b, beside, target = x.codes, weight.codes, out if residual is None else residual, out
    if c.descriptors == "host":
        piece = [c.rows, c.columns // c.pieces]
        a, b = (
            TensorDescriptor.from_tensor(a, [c.rows, c.depth]),
            TensorDescriptor.from_tensor(b, [c.columns, c.depth]),
        )
        beside, target = (TensorDescriptor.from_tensor(t, piece) for t in (beside, out))
    tiles = -(-m // c.rows) * -(-n // c.columns)
    grid = min(tiles, c.programs * _multiprocessors(device)) if c.programs else tiles
    with torch.cuda.device_of(out):  # Triton launches on the current device
        if c.descriptors == "device":
            triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=device))
        multiply[(grid,)](
            a,
            b,
            x.scale,
            weight.scale,
            x.scale if bias is None else bias,
            beside,
            x.scale if gate is None else gate,
            target,
            x.scale if out_scale is None else out_scale,
            m,
            n,
            k,
            m if gate is None else m // len(gate),
            BIAS=bias is not None,
            GELU=activation,
            RESIDUAL=residual is not None,
            GATE="none" if gate is None else "one" if len(gate) == 1 else "many",
            CODES=out_scale is not None,
            TILES=isinstance(weight, Tiles),
            DESCRIPTORS=c.descriptors,
            EVEN=k % c.depth == 0,
            ROWS=c.rows,
            COLUMNS=c.columns,
            DEPTH=c.depth,
            GROUP=c.group,
            PIECES=c.pieces,
            PROMOTE=c.promote,
            FLATTEN=c.programs > 0 and c.promote == 0,
            num_warps=c.warps,
            num_stages=stages_of(c, None if residual is None else residual.dtype),
        )
    return out


def stages_of(config: tuning.Gemm, residual: torch.dtype | None) -> int:
    """Stages of operands: beside a float32 residual that passes through shared memory, one has no room."""
    return config.stages - (config.descriptors != "none" and residual == torch.float32)


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
