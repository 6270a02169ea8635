"""TurboDiffusion's 8-bit layout: `int8_weight` [out, in] and `scale` [ceil(out / 128), ceil(in / 128)] float32.

Every Linear inside `blocks` but proj_l is stored so. Here the codes are expanded while they are read.
"""

import torch
from torch import Tensor

from kernels import reference
from model.checkpoints.entries import NEXT, Checkpoint, Device, Entry
from model.checkpoints.headers import CODES, SCALE
from model.errors import CorruptWeights


def expanded(found: Checkpoint) -> Checkpoint:
    """The same checkpoint with a `weight` for each pair of codes and scale. Raises CorruptWeights."""
    entries: dict[str, Entry] = {}
    for name, entry in found.items():
        if name.endswith(CODES):
            layer = name.removesuffix(CODES)
            entries[f"{layer}.weight"] = _pair(entry, found.get(layer + SCALE), layer + SCALE)
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) + CODES in found):
            entries[name] = entry
    return found.of(entries.items())


def _pair(codes: Entry, scale: Entry | None, scale_name: str) -> Entry:
    if scale is None:
        raise CorruptWeights(f"{codes.file}: tensor {scale_name} is missing", NEXT)
    blocks = tuple(-(-n // reference.WEIGHT_BLOCK) for n in codes.shape)
    if scale.shape != blocks:
        raise scale.refuse(f"expected {list(blocks)}, found {list(scale.shape)}")

    def read(device: Device) -> Tensor:
        values = codes.read(device)
        if values.dtype is not torch.int8:
            raise codes.refuse(f"expected int8, found {values.dtype}")
        return reference.dequantize_blocks(values, scale.read(device))

    return Entry(codes.file, codes.name, codes.shape, read)
