"""Reading safetensors files."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoints.fill import NEXT
from model.errors import CorruptWeights


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises CorruptWeights where it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CorruptWeights(f"{path}: no such file", "install the model's weights again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptWeights(f"{path}: not a whole safetensors file ({error})", NEXT) from error
