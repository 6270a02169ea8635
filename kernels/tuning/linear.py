"""Configurations of the 8-bit GEMM, per compute capability and kind of operand."""

from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["fp8", "fp8 long", "int8", "tiles"]


@dataclass(frozen=True)
class Gemm:
    """A program computes tiles of `rows` x `columns`, `depth` of k a step.

    programs: persistent ones per multiprocessor; 0: one program a tile. descriptors: TMA descriptors made by the
    host or the device, or pointers. pieces: parts in which a tile is finished and stored, so that its way through
    shared memory leaves room for another stage. promote: fp8 sums of so many steps are added up in float32, since
    Hopper's fp8 accumulators keep 14 bits; 0: never. specialize: warps that load and warps that multiply. group:
    tiles down before the next column. approximate: GELU by one special-function instruction.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    programs: int = 0
    descriptors: Literal["none", "host", "device"] = "none"
    pieces: Literal[1, 2, 4] = 1
    promote: int = 0
    specialize: bool = False
    group: int = 8
    approximate: bool = True

    def __post_init__(self) -> None:
        if self.specialize and (self.programs == 0 or self.descriptors != "device" or self.warps != 4):
            raise ValueError("warp specialisation wants persistent programs of 4 warps and device descriptors")
        if self.descriptors == "device" and self.programs == 0:
            raise ValueError("descriptors made on the device take a microsecond: for persistent programs only")


# Sums of up to so many products stay within bounds though fp8 accumulators keep 14 bits (8.9, 9.0): error 7e-4 at
# 1536, 1.6e-3 at 5120, 2.9e-3 at 13824. Longer ones are added up in float32 every 512.
LONGEST_FAST_SUM = 2048
# Of plain products, without activation and residual, torch._scaled_mm was the fastest measured so far.
PLAIN_BY_TORCH = True

# 8.6, 8.9 and 12.0 have 99 KiB of shared memory. fp8 begins with 8.9.
GEMM: dict[tuple[int, Kind], Gemm] = {
    (80, "int8"): Gemm(128, 256, 128, 8, 3, pieces=4),
    (80, "tiles"): Gemm(128, 128, 128, 8, 3, pieces=2),
    (86, "int8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (86, "tiles"): Gemm(128, 128, 64, 8, 3, pieces=2),
    (89, "fp8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (89, "fp8 long"): Gemm(128, 128, 64, 8, 4, pieces=2, promote=8),
    (89, "int8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (89, "tiles"): Gemm(128, 128, 64, 8, 3, pieces=2),
    (90, "fp8"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4),
    (90, "fp8 long"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4, promote=4),
    (90, "int8"): Gemm(128, 128, 128, 4, 3, programs=2, descriptors="host", pieces=4),
    (90, "tiles"): Gemm(128, 128, 128, 8, 5, programs=1, descriptors="host", pieces=4),
    (100, "fp8"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4),
    (100, "fp8 long"): Gemm(128, 256, 128, 8, 4, programs=1, descriptors="host", pieces=4),
    (100, "int8"): Gemm(128, 128, 128, 8, 4, pieces=2),
    (100, "tiles"): Gemm(128, 128, 128, 8, 3, pieces=2),
    (120, "fp8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (120, "fp8 long"): Gemm(128, 128, 64, 8, 4, pieces=2, promote=8),
    (120, "int8"): Gemm(128, 128, 64, 4, 4, pieces=4),
    (120, "tiles"): Gemm(128, 128, 64, 8, 3, pieces=2),
}


def find(capability: int, kind: Kind) -> Gemm:
    """The configuration for a card: its own, else that of the nearest older card (10.3 takes 10.0's)."""
    known = [c for c, k in GEMM if k == kind and c <= capability]
    if not known:
        raise ValueError(f"no {kind} products on compute capability {capability / 10}")
    return GEMM[max(known), kind]


def of_device(device: torch.device, kind: Kind) -> Gemm:
    """`find` for a device. On a CPU, in Triton's interpreter, pointers and one program a tile."""
    if device.type != "cuda":
        return GEMM[89, kind]
    major, minor = torch.cuda.get_device_capability(device)
    return find(major * 10 + minor, kind)
