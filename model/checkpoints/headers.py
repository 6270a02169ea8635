"""What safetensors files hold, from their headers alone: names and shapes, without torch and without a tensor."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from model.errors import CorruptWeights

CODES, SCALE = ".int8_weight", ".scale"  # how TurboDiffusion calls the two halves of an 8-bit matrix
_LONGEST = 100_000_000  # bytes of a header; the format's own limit


def shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by name. Raises CorruptWeights."""
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        found |= {name: tuple(entry["shape"]) for name, entry in _header(path).items() if name != "__metadata__"}
    return found


def numbers(files: Sequence[Path]) -> int:
    """How many the layers have that these files fill: a matrix in 8-bit codes counts once, its scale never."""
    held = shapes(files)
    return sum(math.prod(shape) for name, shape in held.items() if not _is_scale(name, held))


def in_8_bits(files: Sequence[Path]) -> bool:
    return any(name.endswith(CODES) for name in shapes(files))


def _is_scale(name: str, held: dict[str, tuple[int, ...]]) -> bool:
    return name.endswith(SCALE) and name.removesuffix(SCALE) + CODES in held


def _header(path: Path) -> dict[str, Any]:
    """https://github.com/huggingface/safetensors: eight bytes say how long the JSON behind them is."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(length) if length <= _LONGEST else b""
        header = json.loads(raw)
        if not isinstance(header, dict) or len(raw) != length:
            raise ValueError("its header is cut short")
        return cast("dict[str, Any]", header)
    except FileNotFoundError:
        raise CorruptWeights(f"{path}: no such file", "install the model's weights again") from None
    except (OSError, ValueError) as error:
        raise CorruptWeights(
            f"{path}: not a whole safetensors file ({error})", "the file is damaged: put the original back"
        ) from None
