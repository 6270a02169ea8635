"""torch's own fp8 product, `torch._scaled_mm`: the baseline, and where it is the fastest, what runs."""

import torch
from torch import Tensor

from kernels.quantized import FP8, Rows


def obstacle(x: Rows, weight: Rows, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why `torch._scaled_mm` cannot take these operands row-wise; None where it can."""
    if x.codes.dtype != FP8 or weight.codes.dtype != FP8:
        return f"the codes are {x.codes.dtype} and {weight.codes.dtype}, not {FP8}"
    if dtype != torch.bfloat16:
        return f"the output is {dtype}: with row-wise scales it must be bfloat16"
    n, k = weight.codes.shape
    return f"{n} outputs and {k} inputs are not multiples of 16" if n % 16 or k % 16 else None


def scaled_mm(x: Rows, weight: Rows, bias: Tensor | None, fast_accumulation: bool = True) -> Tensor:
    """x W^T + bias in bfloat16. fast_accumulation: sums keep the tensor cores' 14 bits, else float32's 24.

    x row-major and W^T column-major: both operands lie with k contiguous, as Rows are.
    """
    return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        x.codes,
        weight.codes.t(),
        scale_a=x.scale[:, None],
        scale_b=weight.scale[None, :],
        bias=None if bias is None else bias.to(torch.bfloat16),
        out_dtype=torch.bfloat16,
        use_fast_accum=fast_accumulation,
    )
