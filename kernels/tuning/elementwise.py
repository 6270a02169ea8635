"""Warps, loops and pipeline stages of the element-wise kernels, per compute capability and row width."""

from dataclasses import dataclass

import torch

LANES = 256  # elements that a warp loads at once in accesses of 16 bytes


@dataclass(frozen=True)
class Rows:
    """A kernel that takes a row at a time.

    programs: per multiprocessor, each looping over rows (0: a program a row). hold: whether a looping program keeps
    scale, shift and gate in registers. stages: of rows loaded ahead in the loop.
    """

    warps: int
    programs: int = 0
    hold: bool = False
    stages: int = 1

    @property
    def chunk(self) -> int:
        return LANES * self.warps

    def grid(self, rows: int, device: torch.device) -> int:
        """Programs for so many rows."""
        if not self.programs:
            return rows
        return min(rows, self.programs * multiprocessors(device))


@dataclass(frozen=True)
class Rope:
    """A program takes `rows` rows of q and k; they divide 64, as the blocks of keys do."""

    warps: int
    rows: int
    stages: int = 1

    @property
    def chunk(self) -> int:
        return LANES * self.warps


@dataclass(frozen=True)
class FewKeys:
    """Attention to few keys: a program takes `queries` rows of a head, `keys` keys a step."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Config:
    norm: Rows
    rope: Rope
    pooled_rope: Rope  # with sums of blocks of rows
    activation: Rows


def find(width: int) -> Config:
    """The configuration for rows of `width` channels: enough warps for about 32 elements a thread or fewer.

    The same for every card until `kernels.bench --only elementwise --variants` has measured others.
    """
    warps = 1
    while warps < 8 and width > LANES * 4 * warps:
        warps *= 2
    return Config(Rows(warps), Rope(warps, 1), Rope(min(8, 2 * warps), 16), Rows(warps))


def few_keys(dtype: torch.dtype) -> FewKeys:
    return FewKeys(32, 32, 4, 1) if dtype == torch.float32 else FewKeys(128, 64, 4, 2)


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
