"""Times on the card (CUDA events, median after warm-up), and the card's own ceilings, measured in the same run."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Ceilings:
    """What this card reaches on plain work."""

    bf16: float  # FLOP/s of a bfloat16 matmul of 8192^3
    copy: float  # bytes/s, read and written


@dataclass(frozen=True)
class Work:
    """What an operation cannot do without."""

    flops: float  # of matrix products
    bytes: float  # read and written once

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds, were the slower of the two all that mattered."""
        return max(self.flops / ceilings.bf16, self.bytes / ceilings.copy)


AHEAD = 1_000_000  # cycles: half a millisecond in which a call is prepared


def seconds(run: Callable[[], object], repeats: int = 15, warm: int = 3, queued: bool = False) -> float:
    """Median device time of one call. queued: on a busy card, as in a step: without its launch."""
    for _ in range(warm):
        run()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if queued:
            torch.cuda._sleep(AHEAD)  # pyright: ignore[reportPrivateUsage]
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times)


def measure_ceilings() -> Ceilings:
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(2**30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return Ceilings(
        bf16=2 * 8192**3 / seconds(lambda: a @ b),
        copy=2 * 2**30 / seconds(lambda: target.copy_(source)),
    )
