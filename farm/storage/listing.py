"""What a store says it holds: its objects with their size and age, and what was begun and never finished."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Stored:
    """One object. `modified` by the store's own clock."""

    key: str
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class Unfinished:
    """An upload that was given up, or is still at work: it takes room and nobody can see it."""

    name: str
    bytes: int
    begun: datetime
