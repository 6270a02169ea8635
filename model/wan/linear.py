"""A linear layer in 8 bits: a scale per output channel and per token."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kernels import switch
from kernels.quantized import Rows, quantize_rows


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
        rows = x if isinstance(x, Rows) else self.quantize(x)
        y = switch.linear(rows, self.rows, self.bias, dtype=self.dtype)
        return y if isinstance(x, Rows) else y.unflatten(0, x.shape[:-1])

    def gelu_rows(self, x: Rows) -> Rows:
        """gelu(x W^T + bias) as the next layer's operand, [m, out]."""
        assert self.reach is not None, "made only for fp8 layers that GELU follows"
        return switch.linear_gelu_rows(x, self.rows, self.bias, self.reach)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Linear8":
        # fp8 counts as floating point: .to(bfloat16) would round scales and turn codes into numbers without them.
        device = fn(self.scale.new_empty(0)).device
        return super()._apply(lambda t: t.to(device), recurse)


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
