"""How Hopper's tensor cores add up e4m3 products, to the last bit: what an fp8 kernel's sums can be judged by.

Found on an H100 by trying: DeepSeek-V3 (section 3.5.2) tells of some 14 bits, SageAttention2 (section 3.2) of an
accumulator of 1 + 8 + 13.
"""

import torch
from torch import Tensor

from kernels.quantized import FP8

AT_ONCE = 32  # products of an instruction
FRACTION = 13  # bits kept below the leading one
LEAST = -6  # exponent of e4m3's subnormals
NOTHING = -500  # exponent of a zero


def fp8_sums(a: Tensor, b: Tensor, promote: int = 0) -> Tensor:
    """a b^T as `wgmma ... e4m3` sums it: float32 [m, n].

    a: codes [m, k], b: codes [n, k], float8_e4m3fn. promote: after so many products the sum so far is added to
    another in float32, and begins again at 0; 0: never. Takes 4 * 32 m n bytes several times over.

    Of 32 products and the sum so far, the largest exponent (a product's is its factors', 1.5 * 1.5 has 0) says
    which bits count: 13 below it, the rest cut off towards zero. They are added exactly, the sum is cut to 13 too.
    """
    if a.dtype != FP8 or b.dtype != FP8 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"e4m3 codes [m, k] and [n, k], got {a.dtype} {list(a.shape)}, {b.dtype} {list(b.shape)}")
    k = a.shape[1]
    total = torch.zeros(a.shape[0], b.shape[0], device=a.device)
    part = torch.zeros_like(total)
    # Float32 is enough: a product has 8 bits, 33 addends of 14 bits make a sum of 20.
    a, b = a.float(), b.float()
    for start in range(0, k, AT_ONCE):
        if promote and start and start % promote == 0:
            total += part
            part = torch.zeros_like(total)
        x, y = a[:, None, start : start + AT_ONCE], b[None, :, start : start + AT_ONCE]
        products = x * y
        exponents = (_exponent(x) + _exponent(y)).amax(2)
        unit = _power(torch.maximum(exponents, _exponent(part, NOTHING)) - FRACTION)
        part = _cut(part, unit) + _cut(products, unit[..., None]).sum(2)
        part = _cut(part, _power(_exponent(part, NOTHING) - FRACTION))
    return total + part


def _exponent(x: Tensor, least: int = LEAST) -> Tensor:
    exponent = torch.frexp(x).exponent - 1
    return torch.where(x == 0, NOTHING, exponent.clamp_min(least))


def _power(exponent: Tensor) -> Tensor:
    """2^exponent; no less than 2^-100, which is far below every product."""
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent.clamp_min(-100))


def _cut(x: Tensor, unit: Tensor) -> Tensor:
    return (x / unit).trunc() * unit
