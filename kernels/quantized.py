"""8-bit operands as they pass from the kernel that makes them to the one that multiplies them."""

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
INT8_MAX = 127.0


@dataclass(frozen=True)
class Rows:
    """A matrix whose rows have one scale each: value[i, j] = codes[i, j] * scale[i].

    codes: [m, n], float8_e4m3fn or int8, contiguous. scale: float32 [m].
    """

    codes: Tensor
    scale: Tensor

    def float(self) -> Tensor:
        """The float32 [m, n] that it stands for."""
        return self.codes.float() * self.scale[:, None]


def quantize_rows(x: Tensor, dtype: torch.dtype = FP8) -> Rows:
    """Each row of x [m, n] by its largest magnitude: scale = amax / 448 (e4m3) or amax / 127 (int8).

    In float32 amax * (1 / 448), and x * (1 / scale): multiplied by reciprocals, as the kernels do, because rows of
    bfloat16 often lie half-way between two codes, where a division would fall to the other side.
    A row of zeros has scale 1e-12 / 448 and codes 0. What the kernels that quantise must compute.
    """
    most = FP8_MAX if dtype == FP8 else INT8_MAX
    wide = x.float()
    scale = wide.abs().amax(dim=1).clamp_min(1e-12) * (1 / most)
    codes = (wide * scale.reciprocal()[:, None]).clamp(-most, most)
    return Rows((codes if dtype == FP8 else codes.round()).to(dtype).contiguous(), scale)
