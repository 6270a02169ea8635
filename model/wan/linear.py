"""The transformer's linear layers in 8 bits, swapped in after loading: a scale per output channel and per token."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from kernels import switch
from kernels.linear import reference, weights
from kernels.quantized import FP8, Rows, quantize_rows
from model.wan.transformer import Attention, WanTransformer

DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


class Linear8(nn.Module):
    """x W^T + bias with both operands in 8 bits: `weight` holds codes, `scale` a factor per output channel."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    reach: Tensor | None

    def __init__(self, weight: Rows, bias: Tensor | None, dtype: torch.dtype, reach: Tensor | None = None) -> None:
        super().__init__()
        self.dtype = dtype  # of what comes out
        self.register_buffer("weight", weight.codes)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("bias", bias)
        # Known from weight and bias: no file holds it.
        self.register_buffer("reach", reach, persistent=False)

    @property
    def rows(self) -> Rows:
        return Rows(self.weight, self.scale)

    def quantize(self, x: Tensor) -> Rows:
        """[..., in] as the operand that this layer takes."""
        return quantize_rows(x.flatten(0, -2), self.weight.dtype)

    def forward(self, x: Tensor | Rows) -> Tensor:
        """[..., in] -> [..., out]; of Rows, quantised by whoever made them, [m, in] -> [m, out]."""
        if isinstance(x, Rows):
            return self.multiply(x)
        return self.multiply(self.quantize(x)).unflatten(0, x.shape[:-1])

    def multiply(self, x: Rows, residual: Tensor | None = None, gate: Tensor | None = None) -> Tensor:
        """residual + gate * (x W^T + bias): [m, out]. residual [m, out]; gate float32 [b, out]."""
        return switch.linear(x, self.rows, self.bias, residual=residual, gate=gate, dtype=self.dtype)

    def gelu_rows(self, x: Rows) -> Rows:
        """gelu(x W^T + bias) as the next layer's operand, [m, out]."""
        if self.weight.dtype != FP8:  # evenly spaced codes want the row's own largest element
            y = switch.linear(x, self.rows, self.bias, gelu=True, dtype=self.dtype)
            return quantize_rows(y, self.weight.dtype)
        assert self.reach is not None, "made only for layers that GELU follows"
        return switch.linear_gelu_rows(x, self.rows, self.bias, self.reach)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Linear8":
        # fp8 counts as floating point: .to(bfloat16) would round scales and turn codes into numbers without them.
        device = fn(self.scale.new_empty(0)).device
        return super()._apply(lambda t: t.to(device), recurse)


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


def together(*layers: nn.Module) -> Linear8 | None:
    """Layers of one input as one layer whose outputs are side by side, where their weights lie so; a view.

    Their order counts: `together(q, k, v)` gives q, k and v in [..., 3 dim].
    """
    eights = [layer for layer in layers if isinstance(layer, Linear8)]
    if len(eights) < len(layers) or len({e.bias is None for e in eights}) > 1:
        return None
    weight, scale = _joined([e.weight for e in eights]), _joined([e.scale for e in eights])
    biases = [e.bias for e in eights if e.bias is not None]
    bias = _joined(biases) if biases else None
    if weight is None or scale is None or (biases and bias is None):
        return None
    return Linear8(Rows(weight, scale), bias, eights[0].dtype)


def _quantized(layer: nn.Linear, dtype: torch.dtype, before_gelu: bool) -> Linear8:
    weight = weights.by_channel(layer.weight.detach(), dtype)
    bias: Tensor | None = layer.bias  # torch's types do not know that there may be none
    bias = None if bias is None else bias.detach()
    return Linear8(weight, bias, layer.weight.dtype, reference.reach(weight, bias) if before_gelu else None)


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


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    """Neighbours in one storage as one tensor, or None."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        shared = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not shared or part.storage_offset() != end or not part.is_contiguous():
            return None
        end += part.numel()
    shape = (sum(len(p) for p in parts), *first.shape[1:])
    return first.as_strided(shape, first.stride())
