"""A model as the farm knows it: the weights behind a name, and who holds them. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class ModelOnDisk:
    """What a node's library holds. `preset` is model.library.preset_json; `bytes` of all its files."""

    name: str
    digest: str
    preset: Mapping[str, Any]
    bytes: int


@dataclass(frozen=True)
class KnownModel:
    """One row of `models`. `workers`: how many living ones can load it."""

    name: str
    digest: str
    preset: Mapping[str, Any]
    bytes: int
    first_seen: datetime
    workers: int
