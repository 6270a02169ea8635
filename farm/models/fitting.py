"""Whether a model fits on a card: what the memory plans take, and what would help where none is small enough."""

import math
from dataclasses import dataclass

from farm import gpus
from farm.models.errors import ImportFailed
from model import memory
from model.errors import ModelError
from model.library import Library
from model.memory import Cost, Parts
from model.wan.config import Preset
from model.wan.sizes import nearest_size


class SizesUnknown(ImportFailed):
    """Its files are not here, and neither is what could tell their sizes without them."""

    code = "sizes_unknown"


@dataclass(frozen=True)
class Card:
    """`memory`, `free`: bytes, of the whole card and now; `free` None: nobody has asked a real card."""

    name: str
    memory: int
    free: int | None = None


@dataclass(frozen=True)
class Fit:
    """What fits on a card that nothing else uses; None: nothing does, and `smaller` is a size that would.

    now: the same beside what uses the card at this moment.
    """

    card: Card
    cost: Cost | None
    now: Cost | None
    smaller: tuple[int, int] | None = None


def parts_of(library: Library, preset: Preset) -> tuple[Parts, bool]:
    """Its parts, and whether they were counted in its files. Raises ImportFailed, SizesUnknown."""
    if not library.missing(preset):
        try:
            return memory.parts_of(preset, library.weights(preset)), True
        except ModelError as error:
            raise ImportFailed(error.message, error.next) from None
    try:
        return memory.parts_of_shapes(preset), False
    except ImportError as error:
        raise SizesUnknown(
            f"{preset.name} is not in the library, and without {error.name} its layers cannot be counted",
            f"farm models pull {preset.name}, or pip install 'turbofarm[gpu]'",
        ) from None


def cards() -> list[Card]:
    """Those that CUDA_VISIBLE_DEVICES leaves."""
    return [Card(f"GPU {g.index} {g.name}", g.memory, g.memory - g.memory_used) for g in gpus.visible()]


def fit(preset: Preset, parts: Parts, size: tuple[int, int], card: Card) -> Fit:
    found = memory.costs(parts, size)
    cost = _first(found, card.memory)
    now = cost if card.free is None else _first(found, card.free)
    return Fit(card, cost, now, None if cost else _smaller(preset, parts, size, card.memory))


def _first(found: list[Cost], room: int) -> Cost | None:
    best = memory.plan_within(found, room)
    return best if best.peak <= room else None


def _smaller(preset: Preset, parts: Parts, size: tuple[int, int], room: int) -> tuple[int, int] | None:
    """The largest allowed size of about the same shape that would fit, to a hundredth of its area."""
    for share in range(99, 0, -1):
        near = nearest_size(size[0] * math.sqrt(share / 100), size[1] * math.sqrt(share / 100), preset)
        if near[0] * near[1] < size[0] * size[1] and _first(memory.costs(parts, near), room):
            return near
    return None
