"""Tensors into a module: what does not fit is refused by file, tensor, expected and found."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.checkpoints.entries import NEXT, Checkpoint, Device, Entry
from model.errors import CorruptWeights


def fill(module: nn.Module, checkpoint: Checkpoint, dtype: torch.dtype, device: Device = "cpu") -> None:
    """Give `module` (which may be on the meta device) these tensors in `dtype` on `device`.

    Raises CorruptWeights on a missing, foreign, mis-shaped or non-finite tensor.
    """
    module.load_state_dict(tensors(checkpoint, module.state_dict(), dtype, device), assign=True)


def tensors(
    checkpoint: Checkpoint, expected: Mapping[str, Tensor], dtype: torch.dtype, device: Device = "cpu"
) -> dict[str, Tensor]:
    """The tensors that `expected` names, read one at a time so that the host holds no second copy."""
    check_shapes(checkpoint, expected)
    return {name: _finite(checkpoint[name], device).to(dtype) for name in expected}


def check_shapes(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    """Raise CorruptWeights unless `checkpoint` has the names and shapes of `expected`. Reads no tensor."""
    where = checkpoint.where
    if missing := sorted(expected.keys() - checkpoint.keys()):
        raise CorruptWeights(f"{where}: tensor {missing[0]} is missing ({len(missing)} in all)", NEXT)
    if foreign := sorted(checkpoint.keys() - expected.keys()):
        entry = checkpoint[foreign[0]]
        raise entry.refuse(f"does not belong here ({len(foreign)} in all)")
    for name, parameter in expected.items():
        entry = checkpoint[name]
        if entry.shape != tuple(parameter.shape):
            raise entry.refuse(f"expected {list(parameter.shape)}, found {list(entry.shape)}")


def check_values(checkpoint: Checkpoint) -> None:
    """Read every tensor once. Raises CorruptWeights where one cannot be read or is not finite."""
    for entry in checkpoint.values():
        _finite(entry, "cpu")


def _finite(entry: Entry, device: Device) -> Tensor:
    tensor = entry.read(device)
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise entry.refuse("holds values that are not finite")
    return tensor
