"""The digest that pins a job to its weights. Pure Python: servers compute it without torch."""

import hashlib
from functools import cache
from pathlib import Path

from model.errors import CorruptWeights
from model.wan.config import Preset


def weights_digest(preset: Preset) -> str:
    """sha256 over the names and bytes of the preset's weight files. Raises CorruptWeights if there are none."""
    files = sorted(preset.weights.glob("*.safetensors")) if preset.weights else []
    if not files:
        raise CorruptWeights(f"no weights of {preset.name} on this machine", "install them, or pick another model")
    return _digest(tuple((path, path.stat().st_mtime_ns) for path in files))


@cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _ in files:
        total.update(path.name.encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
