"""Tensors by name that are read only when they are wanted: a checkpoint may be larger than memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from model.errors import CorruptWeights

Device = torch.device | str

NEXT = "the file is damaged or belongs to another model: put the original back"


@dataclass(frozen=True)
class Entry:
    """One tensor of `file`, where it is called `name`; `read` brings it to a device."""

    file: Path
    name: str
    shape: tuple[int, ...]
    read: Callable[[Device], Tensor]

    def reshaped(self, *shape: int) -> "Entry":
        return replace(self, shape=shape, read=lambda device: self.read(device).reshape(shape))

    def refuse(self, what: str) -> CorruptWeights:
        """The error that says what is wrong with this tensor."""
        return CorruptWeights(f"{self.file}: tensor {self.name} {what}", NEXT)


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Entry]):
    """Entries by the name they have here; `where` is the file or folder that stands for all of them."""

    where: Path
    entries: Mapping[str, Entry]

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def of(self, entries: Iterable[tuple[str, Entry]]) -> "Checkpoint":
        """The same files with other names or other entries."""
        return Checkpoint(self.where, dict(entries))


def of_tensors(tensors: Mapping[str, Tensor], file: Path) -> Checkpoint:
    """Of tensors that are in memory (or mapped) already."""

    def reader(tensor: Tensor) -> Callable[[Device], Tensor]:
        return tensor.to

    return Checkpoint(file, {n: Entry(file, n, tuple(t.shape), reader(t)) for n, t in tensors.items()})
