"""Configurations of the sparse-linear attention kernels, per compute capability and head_dim."""

from dataclasses import dataclass

import torch


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
    major, minor = torch.cuda.get_device_capability(device)
    return find(major * 10 + minor, head_dim, dtype)
