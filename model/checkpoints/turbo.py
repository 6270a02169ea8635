"""TurboDiffusion's transformer checkpoints: its names, and its 8-bit layout, into ours.

8-bit files hold `int8_weight` [out, in], `scale` [ceil(out / 128), ceil(in / 128)] float32 and a bf16 bias for
every Linear inside `blocks` but proj_l. Layout-tested, not yet run on released weights.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kernels import reference
from model.checkpoints.fill import NEXT, fill
from model.errors import CorruptWeights
from model.wan.config import TransformerConfig
from model.wan.transformer import WanTransformer

_THEIRS, _OURS = "self_attn.attn_op.local_attn.proj_l", "self_attn.proj_l"
_CODES, _SCALE = ".int8_weight", ".scale"


def load(
    tensors: Mapping[str, Tensor], config: TransformerConfig, source: Path, dtype: torch.dtype
) -> WanTransformer:
    """A transformer with these weights in `dtype`; 8-bit weights are expanded. Raises CorruptWeights."""
    with torch.device("meta"):
        model = WanTransformer(config)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_CODES):
            layer = name.removesuffix(_CODES)
            state[f"{layer}.weight"] = _expand(layer, tensor, tensors.get(layer + _SCALE), source).to(dtype)
        elif not (name.endswith(_SCALE) and name.removesuffix(_SCALE) + _CODES in tensors):
            state[name.replace(_THEIRS, _OURS)] = tensor
    fill(model, state, source, dtype)
    return model


def _expand(layer: str, codes: Tensor, scale: Tensor | None, source: Path) -> Tensor:
    if scale is None:
        raise CorruptWeights(f"{source}: tensor {layer}{_SCALE} is missing", NEXT)
    if codes.dtype is not torch.int8:
        raise CorruptWeights(f"{source}: tensor {layer}{_CODES} expected int8, found {codes.dtype}", NEXT)
    blocks = [-(-n // reference.WEIGHT_BLOCK) for n in codes.shape]
    if list(scale.shape) != blocks:
        raise CorruptWeights(f"{source}: tensor {layer}{_SCALE} expected {blocks}, found {list(scale.shape)}", NEXT)
    return reference.dequantize_blocks(codes, scale)
