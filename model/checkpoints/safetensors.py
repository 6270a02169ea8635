"""Reading and writing safetensors files; a checkpoint may be cut into several."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoints.entries import NEXT, Checkpoint, Device, Entry
from model.errors import CorruptWeights


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises CorruptWeights where it is missing or damaged."""
    return _refusing(path, lambda: load_file(path))


def open_files(paths: Sequence[Path], where: Path | None = None) -> Checkpoint:
    """The tensors of one or several files, read when wanted. Raises CorruptWeights, also for a name held twice."""
    entries: dict[str, Entry] = {}
    for path in paths:
        for name, shape in _refusing(path, lambda path=path: _shapes(path)).items():
            if name in entries:
                raise CorruptWeights(f"{path}: tensor {name} is also in {entries[name].file}", NEXT)
            entries[name] = Entry(path, name, shape, _reader(path, name))
    return Checkpoint(where or paths[0], entries)


def open_folder(folder: Path) -> Checkpoint:
    """A checkpoint as diffusers and transformers save it: one file, or shards that an index lists.

    Raises CorruptWeights naming a shard that the index lists and that is missing, or a tensor that lies elsewhere.
    """
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if not indexes:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CorruptWeights(f"{folder}: no .safetensors files here", "name the folder that holds them")
        return open_files(files, folder)
    try:
        listed: Mapping[str, str] = json.loads(indexes[0].read_text("utf-8"))["weight_map"]
        shards = sorted(set(listed.values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CorruptWeights(f"{indexes[0]}: not an index of shards ({error})", NEXT) from None
    checkpoint = open_files([folder / Path(shard).name for shard in shards], folder)
    for name, shard in listed.items():
        if name not in checkpoint or checkpoint[name].file.name != shard:
            raise CorruptWeights(f"{folder / shard}: tensor {name} is not in it, as {indexes[0].name} says", NEXT)
    return checkpoint


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A file that `open_files` reads. Raises OSError where the disk takes no more."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _reader(path: Path, name: str) -> Callable[[Device], Tensor]:
    def get(device: Device) -> Tensor:
        with safe_open(path, "pt", device=str(device)) as file:
            return file.get_tensor(name)

    return lambda device: _refusing(path, lambda: get(device))


def _refusing(path: Path, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except FileNotFoundError:
        raise CorruptWeights(f"{path}: no such file", "install the model's weights again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptWeights(f"{path}: not a whole safetensors file ({error})", NEXT) from error
