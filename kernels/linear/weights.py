"""Weights in 8 bits: by output channel, or by the tiles of a checkpoint; made when a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import reference
from kernels.quantized import FP8, Rows, quantize_rows

CHUNK = 2048  # output channels at a time: a float32 copy of a whole weight may not fit beside it


@dataclass(frozen=True)
class Tiles:
    """A checkpoint's weight: codes int8 [out, in], scale float32 [ceil(out / 128), ceil(in / 128)]."""

    codes: Tensor
    scale: Tensor

    def float(self) -> Tensor:
        """The float32 [out, in] that it stands for."""
        return reference.dequantize_blocks(self.codes, self.scale)


def by_channel(weight: Tensor | Tiles, dtype: torch.dtype = FP8) -> Rows:
    """A weight [out, in] with one scale per output channel, in float8_e4m3fn or int8."""
    parts: list[Rows] = []
    rows = weight.codes.shape[0] if isinstance(weight, Tiles) else weight.shape[0]
    for first in range(0, rows, CHUNK):
        if isinstance(weight, Tiles):
            block = reference.WEIGHT_BLOCK
            scale = weight.scale[first // block : (first + CHUNK) // block]
            some = Tiles(weight.codes[first : first + CHUNK], scale).float()
        else:
            some = weight[first : first + CHUNK]
        parts.append(quantize_rows(some, dtype))
    return stack(parts)


def stack(weights: Sequence[Rows]) -> Rows:
    """Several weights [out, in] of the same input as one, so that one product gives all their outputs."""
    if len(weights) == 1:
        return weights[0]
    codes = torch.cat([w.codes.view(torch.uint8) for w in weights])  # not every torch joins fp8
    return Rows(codes.view(weights[0].codes.dtype), torch.cat([w.scale for w in weights]))


def split(weight: Rows, outputs: Sequence[int]) -> list[Rows]:
    """The parts of a stacked weight: views, no copies."""
    parts = zip(weight.codes.split(list(outputs)), weight.scale.split(list(outputs)), strict=True)
    return [Rows(codes, scale) for codes, scale in parts]
