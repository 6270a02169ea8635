"""Tile sizes, warps and pipeline stages per card, as data. Chosen from `kernels.bench`, never at run time."""
