"""What a machine's model library holds, in the words of the farm's database."""

from farm.domain.model import ModelOnDisk
from model.errors import ModelError
from model.library import Library, needed, preset_json
from model.wan.config import Preset


def on_disk(library: Library) -> list[ModelOnDisk]:
    """Every model that can be loaded from it. One whose files are damaged is left out: it cannot."""
    found: list[ModelOnDisk] = []
    for preset in library.installed():
        try:
            digest, size = library.digest(preset), size_of(library, preset)
        except ModelError:
            continue
        found.append(ModelOnDisk(preset.name, digest, preset_json(preset), size))
    return found


def size_of(library: Library, preset: Preset) -> int:
    """Bytes of all its files, those it shares with other models included."""
    if preset.weights is not None:
        files = library.weights(preset)
        preview = () if files.preview is None else (files.preview,)
        return sum(p.stat().st_size for p in (*files.transformer, *files.vae, *files.text_encoder, *preview))
    parts = (library.component(name) for name in needed(preset))
    return sum(part.bytes for part in parts if part is not None)
