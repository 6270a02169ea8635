"""A scale for each row of a linear layer's output that is known before the product: what lets a GEMM write fp8."""

# pyright: reportCallIssue=false
# (a launch takes num_warps, which Triton's types do not know)
import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.quantized import FP8_MAX, Rows

ROWS, WIDTH = 8, 512
LARGEST = tl.constexpr(FP8_MAX)


@triton.jit(do_not_specialize=["m"])
def bound_rows(codes, scale, reach, out, m, k, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """out [m] = (|codes [m, k]| scale [m] reach[0] + reach[1]) / 448, all float32 but the codes."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < m
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(0, k, WIDTH):
        column = start + tl.arange(0, WIDTH)
        at = codes + row.to(tl.int64)[:, None] * k + column[None, :]
        code = tl.load(at, mask=real[:, None] & (column < k)[None, :], other=0.0).to(tl.float32)
        total += code * code
    norm = tl.sqrt(tl.sum(total, 1)) * tl.load(scale + row, mask=real, other=0.0)
    most = norm * tl.load(reach) + tl.load(reach + 1)
    tl.store(out + row, tl.maximum(most, 1e-12) / LARGEST, mask=real)


def bound(x: Rows, reach: Tensor) -> Tensor:
    """`kernels.linear.reference.bound`: reads the codes once, no more than a hundredth of their product's time."""
    m, k = x.codes.shape
    out = torch.empty(m, dtype=torch.float32, device=x.codes.device)
    with torch.cuda.device_of(out):
        bound_rows[(-(-m // ROWS),)](x.codes, x.scale, reach, out, m, k, ROWS=ROWS, WIDTH=WIDTH, num_warps=4)
    return out
