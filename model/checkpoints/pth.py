"""Reading .pth files: tensors only, never code."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.entries import NEXT, Checkpoint, of_tensors
from model.errors import CorruptWeights


def open_file(path: Path) -> Checkpoint:
    """Tensors of a .pth file, mapped from disk. Raises CorruptWeights: missing, damaged, or more than tensors."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CorruptWeights(f"{path}: no such file", "install the model's weights again") from None
    except pickle.UnpicklingError as error:
        raise CorruptWeights(
            f"{path}: holds more than tensors and was not opened, because a pickle can run code",
            "use the publisher's own file, or convert it to safetensors where you trust it",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CorruptWeights(f"{path}: not a whole .pth file", NEXT) from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CorruptWeights(f"{path}: expected a dictionary of tensors, found {type(found).__name__}", NEXT)
    return of_tensors(found, path)
