"""The transformer's linear layers in 8 bits, swapped in after loading."""

from collections.abc import Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from kernels.linear import reference, weights
from kernels.quantized import FP8
from model.wan.linear import Linear8
from model.wan.transformer import Attention, WanTransformer

DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
# How far a layer's largest row may lie above its median one for a bound of its output to be of use: above that the
# others' codes fall among e4m3's subnormal ones (error 3.1e-2 at 200, 4.0e-2 at 400, 1.0e-1 at 1000).
OUTLIER = 200


def quantize_linears(transformer: WanTransformer, dtype: torch.dtype, keep: Sequence[str] = ()) -> list[str]:
    """Swap every Linear inside `blocks` but proj_l for one in 8 bits, where it stands; the names stay as they are.

    dtype: float8_e4m3fn or int8. keep: patterns (`blocks.0.*`, `*.ffn.2`) of layers that stay as they are, where
    8 bits cost more than they save; one that matches nothing is a ValueError. Returns the names that were swapped.
    """
    all_names = [
        name
        for name, layer in transformer.named_modules()
        if name.startswith("blocks.") and isinstance(layer, nn.Linear) and not name.endswith("proj_l")
    ]
    for pattern in keep:
        if not any(fnmatch(name, pattern) for name in all_names):
            raise ValueError(f"no linear layer is called {pattern}: they are called like {all_names[0]}")
    names = [name for name in all_names if not any(fnmatch(name, pattern) for pattern in keep)]
    for name in names:
        parent, _, own = name.rpartition(".")
        layer = transformer.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        # Layer by layer: the host or card never holds a second copy of the model.
        setattr(
            transformer.get_submodule(parent), own, _quantized(layer, dtype, before_gelu=name.endswith("ffn.0"))
        )
    for layer in transformer.modules():
        if isinstance(layer, Attention):
            _lay_together([layer.q, layer.k, layer.v])
    return names


def _quantized(layer: nn.Linear, dtype: torch.dtype, before_gelu: bool) -> Linear8:
    weight = weights.by_channel(layer.weight.detach(), dtype)
    bias: Tensor | None = layer.bias  # torch's types do not know that there may be none
    bias = None if bias is None else bias.detach()
    # Evenly spaced codes want a row's own largest element: no bound of it helps int8.
    bounded = before_gelu and dtype == FP8 and not _has_outlier(layer.weight.detach())
    return Linear8(weight, bias, layer.weight.dtype, reference.reach(weight, bias) if bounded else None)


def _has_outlier(weight: Tensor) -> bool:
    """Whether one output row sets the bound of all: its layer is quantised after the product, by what came out."""
    norms = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)
    return bool(norms.max() > OUTLIER * norms.median())


def _lay_together(layers: Sequence[nn.Module]) -> None:
    """Let layers of one input share memory, one after the other: `together` finds them so."""
    eights = [layer for layer in layers if isinstance(layer, Linear8)]
    if len(eights) < len(layers) or len({e.bias is None for e in eights}) > 1:
        return
    outputs = [len(e.scale) for e in eights]
    parts = weights.split(weights.stack([e.rows for e in eights]), outputs)
    for layer, part in zip(eights, parts, strict=True):
        layer.weight, layer.scale = part.codes, part.scale
    biases = [e.bias for e in eights if e.bias is not None]
    if biases:
        for layer, bias in zip(eights, torch.cat(biases).split(outputs), strict=True):
            layer.bias = bias
