"""Reading weights: a file that does not fit its module is refused by file, tensor, expected and found."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.errors import CorruptWeights

_NEXT = "the file is damaged or belongs to another model: put the original back"


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises CorruptWeights where it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CorruptWeights(f"{path}: no such file", "install the model's weights again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptWeights(f"{path}: not a whole safetensors file ({error})", _NEXT) from error


def load_into(module: nn.Module, path: Path, dtype: torch.dtype, extra: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Fill `module` from the file, cast to `dtype`. Returns the tensors named in `extra`.

    Raises CorruptWeights on a missing, foreign, mis-shaped or non-finite tensor.
    """
    tensors = read(path)
    state = module.state_dict()
    check_tensors(tensors, state, path, extra)
    module.load_state_dict({name: tensors[name].to(dtype) for name in state}, assign=True)
    return {name: tensors[name] for name in extra}


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path, extra: tuple[str, ...] = ()
) -> None:
    """Raise CorruptWeights unless `tensors` has the names and shapes of `expected`, all values finite."""
    wanted = {*expected, *extra}
    if missing := sorted(wanted - tensors.keys()):
        raise CorruptWeights(f"{source}: tensor {missing[0]} is missing ({len(missing)} in all)", _NEXT)
    if foreign := sorted(tensors.keys() - wanted):
        raise CorruptWeights(f"{source}: tensor {foreign[0]} does not belong here ({len(foreign)} in all)", _NEXT)
    for name, parameter in expected.items():
        found = tensors[name]
        if found.shape != parameter.shape:
            raise CorruptWeights(
                f"{source}: tensor {name} expected {list(parameter.shape)}, found {list(found.shape)}", _NEXT
            )
        if not torch.isfinite(found).all():
            raise CorruptWeights(f"{source}: tensor {name} holds values that are not finite", _NEXT)
