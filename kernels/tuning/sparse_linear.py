"""Configurations of the sparse-linear attention kernels, per compute capability and head_dim."""

from dataclasses import dataclass
from typing import Literal

import torch

Arithmetic = Literal["bf16", "8bit"]  # 16-bit products (any input dtype's own), or int8 scores and e4m3 values


@dataclass(frozen=True)
class Attend:
    """The sparse pass. A program takes `queries` rows (they divide 128) and `keys` keys a step (they divide 64)."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class State:
    """The linear branch's state. A program sums `split` keys, `keys` a step.

    `split` fixes the order of the sum, so it is part of the result: the same on every card.
    """

    keys: int
    warps: int
    stages: int
    split: int = 2048


@dataclass(frozen=True)
class Config:
    attend: Attend
    state: State


@dataclass(frozen=True)
class Attend8:
    """The sparse pass in 8 bits. A program takes `queries` rows (they divide 128), `keys` keys a step: 64 or 128.

    magic: scores become floats by an integer addition instead of a conversion; that is right only where a product
    and a sum become one operation, as on every card.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    magic: bool = True


@dataclass(frozen=True)
class Survey:
    """The first reading of k and v: `keys` keys a step. split: keys that a program sums; 0 is `split_of`.

    registers: of a thread, at most; 128 let two programs of 8 warps share a processor.
    """

    keys: int
    warps: int
    stages: int
    registers: int | None = None
    split: int = 0


PROGRAMS = 264  # of a survey at once: two on each of an H100's processors


def split_of(length: int, heads: int) -> int:
    """How many keys a program surveys: so many that programs end together, a multiple of 64.

    It fixes the order of a sum, so it follows from the shape alone: the same on every card. heads: of all batches.
    """

    def cost(parts: int) -> float:  # waves of programs, with what a program costs beside its keys, in keys
        return -(-parts * heads // PROGRAMS) * (length / parts + 256)

    parts = min(range(1, max(1, length // 1024) + 1), key=cost)
    return max(1, -(-length // (parts * 64))) * 64


@dataclass(frozen=True)
class AttendHopper:
    """The sparse pass written out for compute capability 9.0, 128 queries a tile and two blocks of keys a step.

    stages: pairs of blocks in shared memory. registers: of a multiplying thread.
    """

    stages: int = 3
    registers: int = 240


@dataclass(frozen=True)
class Quantize:
    """The pass that makes 8-bit operands: a program takes 128 rows of q, k and v."""

    warps: int


@dataclass(frozen=True)
class Config8:
    attend: Attend8 | AttendHopper
    survey: Survey
    quantize: Quantize


# (compute capability, head_dim) -> configuration for 16-bit inputs. 8.6, 8.9 and 12.x have 99 KiB of shared memory.
HALF: dict[tuple[int, int], Config] = {
    (80, 64): Config(Attend(128, 64, 4, 3), State(64, 4, 3)),
    (80, 128): Config(Attend(128, 64, 8, 3), State(64, 8, 2)),
    (86, 64): Config(Attend(128, 64, 4, 3), State(64, 4, 2)),
    (86, 128): Config(Attend(128, 64, 8, 3), State(64, 8, 2)),
    (89, 64): Config(Attend(128, 64, 4, 3), State(64, 4, 2)),
    (89, 128): Config(Attend(128, 64, 8, 3), State(64, 8, 2)),
    (90, 64): Config(Attend(128, 64, 4, 3), State(64, 4, 3)),
    (90, 128): Config(Attend(128, 64, 4, 3), State(64, 4, 3)),
    (100, 64): Config(Attend(128, 64, 4, 3), State(64, 4, 3)),
    (100, 128): Config(Attend(128, 64, 8, 3), State(64, 8, 3)),
    (120, 64): Config(Attend(128, 64, 4, 3), State(64, 4, 2)),
    (120, 128): Config(Attend(128, 64, 8, 3), State(64, 8, 2)),
}
# The same for 8-bit products. Below 8.9 there is no e4m3.
EIGHT: dict[tuple[int, int], Config8] = {
    (89, 64): Config8(Attend8(128, 64, 8, 3), Survey(64, 8, 2), Quantize(8)),
    (89, 128): Config8(Attend8(128, 64, 8, 3), Survey(64, 8, 2), Quantize(8)),
    (90, 64): Config8(AttendHopper(), Survey(64, 8, 3), Quantize(4)),  # by analogy: not measured
    (90, 128): Config8(AttendHopper(), Survey(64, 8, 3), Quantize(4)),
    (100, 64): Config8(Attend8(128, 64, 8, 3), Survey(64, 8, 3), Quantize(8)),
    (100, 128): Config8(Attend8(128, 64, 8, 3), Survey(64, 8, 3), Quantize(8)),
    (120, 64): Config8(Attend8(128, 64, 8, 3), Survey(64, 8, 2), Quantize(8)),
    (120, 128): Config8(Attend8(128, 64, 8, 3), Survey(64, 8, 2), Quantize(8)),
}
# For Triton's interpreter, which runs the portable kernels only.
INTERPRETED = Config8(Attend8(64, 128, 4, 5), Survey(32, 8, 3), Quantize(8))
# Cards on which 8-bit products were measured to be faster: what a caller gets there who does not say.
FASTER_IN_8_BITS = frozenset({90})
# float32 is there to be checked against, not to be fast: one configuration that fits every card.
FULL = Config(Attend(32, 32, 4, 1), State(32, 8, 1))


def find(capability: int, head_dim: int, dtype: torch.dtype) -> Config:
    """The configuration for a card: its own, else that of the nearest older card (10.3 takes 10.0's)."""
    if dtype == torch.float32:
        return FULL
    known = [c for c, d in HALF if d == head_dim and c <= capability]
    if not known:
        raise ValueError(f"no configuration for compute capability {capability / 10} and head_dim {head_dim}")
    return HALF[max(known), head_dim]


def of_device(device: torch.device, head_dim: int, dtype: torch.dtype) -> Config:
    """`find` for a device. On a CPU, Triton's interpreter is the quicker the larger the tiles."""
    if device.type != "cuda":
        return HALF[120, head_dim]
    return find(_capability(device), head_dim, dtype)


def find_8bit(capability: int, head_dim: int) -> Config8:
    """The 8-bit configuration for a card: its own, else that of the nearest older card."""
    known = [c for c, d in EIGHT if d == head_dim and c <= capability]
    if not known:
        raise ValueError(f"no 8-bit attention for compute capability {capability / 10} and head_dim {head_dim}")
    return EIGHT[max(known), head_dim]


def of_device_8bit(device: torch.device, head_dim: int, dtype: torch.dtype = torch.bfloat16) -> Config8:
    """`find_8bit` for a device and 16-bit inputs; on a CPU, for Triton's interpreter and any."""
    if device.type != "cuda":
        return INTERPRETED
    if dtype == torch.float32:  # its linear branch leaves too little shared memory
        raise ValueError(f"8-bit attention takes 16-bit inputs, got {dtype}")
    return find_8bit(_capability(device), head_dim)


def has_8bit(device: torch.device) -> bool:
    """Whether a device has e4m3 products, or Triton's interpreter stands in for them."""
    return device.type != "cuda" or _capability(device) >= min(EIGHT)[0]


def faster(device: torch.device, dtype: torch.dtype) -> Arithmetic:
    """Which arithmetic a caller gets who does not say. float32 keeps its own."""
    if device.type != "cuda" or dtype == torch.float32:
        return "bf16"
    return "8bit" if _capability(device) in FASTER_IN_8_BITS else "bf16"


def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor
