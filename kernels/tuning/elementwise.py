"""Warps of the element-wise kernels by row width; tiles and pipeline stages of attention to few keys."""

from dataclasses import dataclass

import torch

LANES = 256  # elements that a warp loads at once in accesses of 16 bytes


@dataclass(frozen=True)
class Rows:
    """A program takes a row."""

    warps: int

    @property
    def chunk(self) -> int:
        return LANES * self.warps


@dataclass(frozen=True)
class FewKeys:
    """Attention to few keys: tiles of `queries` rows of a head. `keys`: at once; all of them where they suffice.

    stages: of tiles of queries read ahead (of keys, where they are not all there at once). programs: per
    multiprocessor, each looping over tiles of one head; 0: a program a tile.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    programs: int = 0

    def grid(self, length: int, heads: int, device: torch.device) -> int:
        """Programs a head."""
        tiles = -(-length // self.queries)
        if not self.programs:
            return tiles
        return min(tiles, -(-self.programs * multiprocessors(device) // heads))


@dataclass(frozen=True)
class Config:
    rows: Rows  # of the norms, of GELU and of quantisation
    rope: Rows  # of RMSNorm, and of q and k at once


def find(width: int) -> Config:
    """The configuration for rows of `width` channels: enough warps for about 32 elements a thread or fewer.

    The same for every card: measured on an H100 only (`kernels.bench --only elementwise --variants`).
    """
    warps = 1
    while warps < 8 and width > LANES * 4 * warps:
        warps *= 2
    # Of rows of 5120, 4 warps divide the channels evenly: 1.06 ms, where 8 took 1.14.
    return Config(Rows(warps), Rows(min(warps, 4)))


def few_keys(dtype: torch.dtype, keys: int) -> FewKeys:
    if dtype == torch.float32:
        return FewKeys(32, 32, 4, 1)
    return FewKeys(64, 128, 4, 2, 8) if keys <= 128 else FewKeys(128, 64, 8, 2)


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
