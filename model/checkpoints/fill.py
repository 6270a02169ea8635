"""Tensors into a module: what does not fit is refused by file, tensor, expected and found."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from model.errors import CorruptWeights

NEXT = "the file is damaged or belongs to another model: put the original back"


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path, dtype: torch.dtype) -> None:
    """Give `module` (which may be on the meta device) these tensors, cast to `dtype`.

    Raises CorruptWeights on a missing, foreign, mis-shaped or non-finite tensor; `source` names the file.
    """
    expected = module.state_dict()
    check(tensors, expected, source)
    module.load_state_dict({name: tensors[name].to(dtype) for name in expected}, assign=True)


def check(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path) -> None:
    """Raise CorruptWeights unless `tensors` has the names and shapes of `expected`, all values finite."""
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CorruptWeights(f"{source}: tensor {missing[0]} is missing ({len(missing)} in all)", NEXT)
    if foreign := sorted(tensors.keys() - expected.keys()):
        raise CorruptWeights(f"{source}: tensor {foreign[0]} does not belong here ({len(foreign)} in all)", NEXT)
    for name, parameter in expected.items():
        found = tensors[name]
        if found.shape != parameter.shape:
            raise CorruptWeights(
                f"{source}: tensor {name} expected {list(parameter.shape)}, found {list(found.shape)}", NEXT
            )
        if not torch.isfinite(found).all():
            raise CorruptWeights(f"{source}: tensor {name} holds values that are not finite", NEXT)
