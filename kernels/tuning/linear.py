"""Configurations of the 8-bit GEMM, per compute capability and kind of operand."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

Kind = Literal["fp8", "fp8 long", "int8", "tiles"]  # long: LONGEST_FAST_SUM products are exceeded
End = Literal["plain", "codes"]  # what follows a product and its bias: nothing, or GELU to fp8


@dataclass(frozen=True)
class Gemm:
    """A program computes tiles of `rows` x `columns`, `depth` of k a step.

    programs: persistent ones per multiprocessor; 0: one program a tile. descriptors: TMA descriptors made by the
    host, or pointers. pieces: parts in which a tile is finished and stored, so that its way through shared memory
    leaves room for another stage. promote: fp8 sums of so many steps are added up in float32, since Hopper's fp8
    accumulators keep 14 bits; 0: never. group: tiles down before the next column.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    programs: int = 0
    descriptors: Literal["none", "host"] = "none"
    pieces: Literal[1, 2, 4] = 1
    promote: int = 0
    group: int = 8


@dataclass(frozen=True)
class GemmHopper:
    """`linear.gemm_gluon`: bfloat16 or fp8 from fp8 on compute capability 9.0, one program per multiprocessor.

    Two warp groups multiply halves of a tile, 128 x 256. depth of k a step, `stages` of them in the ring. buffers:
    through which a group stores its pieces, of `bytes` a row. promote: fp8 sums of so many steps are added up in
    float32; 0: never. group: as in Gemm.
    """

    tall: ClassVar[int] = 64  # rows of a group
    columns: ClassVar[int] = 256

    depth: int = 128
    stages: int = 4
    buffers: int = 2
    bytes: int = 128
    promote: int = 0
    group: int = 8

    def __post_init__(self) -> None:
        if self.columns * 2 // self.bytes % self.buffers:
            raise ValueError(f"{self.buffers} staging buffers do not divide a tile's pieces")
        if self.columns * 2 // self.bytes not in (1, 2, 4):
            raise ValueError(f"a tile is finished in 1, 2 or 4 pieces, not by {self.bytes} bytes a row")
        if self.stages < 2:
            raise ValueError("a stage is free again a step after its products: with less than two all would wait")

    def wide(self, element: int) -> int:
        """Columns of a piece of elements of so many bytes."""
        return self.bytes // element

    def staged(self, element: int) -> int:
        """Buffers that pieces of such elements go through: with more than there are pieces, one would be written
        again before it is known to be read."""
        return min(self.buffers, self.columns // self.wide(element))


@dataclass(frozen=True)
class Torch:
    """`torch._scaled_mm`, for plain fp8 products. fast: its sums keep the tensor cores' 14 bits, else 24."""

    fast: bool


Way = Torch | Gemm | GemmHopper

# Sums of up to so many products stay within bounds though fp8 accumulators keep 14 bits (8.9, 9.0): error 7e-4 at
# 1536, 1.6e-3 at 5120, 2.9e-3 at 13824. Longer ones are added up in float32 every 20 steps of 128: error 1.9e-3
# with the rounding to bfloat16 (1.8e-3 by 14 steps, which is 2 to 5 % slower). 8.9 and 12.0, not measured, keep 14.
LONGEST_FAST_SUM = 2048

# 8.6, 8.9 and 12.0 have 99 KiB of shared memory. fp8 begins with 8.9.
GEMM: dict[tuple[int, Kind], Gemm] = {
    (80, "int8"): Gemm(128, 256, 128, 8, 3, pieces=4),
    (80, "tiles"): Gemm(128, 128, 128, 8, 3, pieces=2),
    (86, "int8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (86, "tiles"): Gemm(128, 128, 64, 8, 3, pieces=2),
    (89, "fp8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (89, "fp8 long"): Gemm(128, 128, 64, 8, 4, pieces=2, promote=28),
    (89, "int8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (89, "tiles"): Gemm(128, 128, 64, 8, 3, pieces=2),
    (90, "fp8"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4),
    (90, "fp8 long"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4, promote=20),
    (90, "int8"): Gemm(128, 128, 128, 4, 3, programs=2, descriptors="host", pieces=4),
    (90, "tiles"): Gemm(128, 128, 128, 8, 5, programs=1, descriptors="host", pieces=4),
    (100, "fp8"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4),
    (100, "fp8 long"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4),
    (100, "int8"): Gemm(128, 128, 128, 8, 4, pieces=2),
    (100, "tiles"): Gemm(128, 128, 128, 8, 3, pieces=2),
    (120, "fp8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (120, "fp8 long"): Gemm(128, 128, 64, 8, 4, pieces=2, promote=28),
    (120, "int8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (120, "tiles"): Gemm(128, 128, 64, 8, 3, pieces=2),
}

# What runs instead where it was measured, by what follows the product: one line each for a measurement to flip.
WAYS: dict[tuple[int, Kind, End], Way] = {
    (90, "fp8", "plain"): Torch(fast=True),
    (90, "fp8", "codes"): Gemm(128, 256, 128, 8, 3, programs=1, descriptors="host"),
    (90, "fp8 long", "plain"): GemmHopper(promote=20),
    (90, "fp8 long", "codes"): GemmHopper(promote=20),
}


def find(capability: int, kind: Kind) -> Gemm:
    """The configuration for a card: its own, else that of the nearest older card (10.3 takes 10.0's)."""
    known = [c for c, k in GEMM if k == kind and c <= capability]
    if not known:
        raise ValueError(f"no {kind} products on compute capability {capability / 10}")
    return GEMM[max(known), kind]


def way(device: torch.device, kind: Kind, end: End) -> Way:
    """What multiplies on a device: of WAYS, else plain fp8 products by torch, else `of_device`."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        measured = WAYS.get((major * 10 + minor, kind, end))
        if measured is not None:
            return measured
        if end == "plain" and kind in ("fp8", "fp8 long"):
            return Torch(fast=kind == "fp8")
    return of_device(device, kind)


def of_device(device: torch.device, kind: Kind) -> Gemm:
    """`find` for a device. On a CPU, in Triton's interpreter, pointers and one program a tile."""
    if device.type != "cuda":
        return GEMM[89, kind]
    major, minor = torch.cuda.get_device_capability(device)
    return find(major * 10 + minor, kind)
