"""A small denoising step recorded once as a CUDA graph and replayed: no kernel of it waits for the host.

Launched one by one from Python, the 770 kernels of a step may take longer than a small step computes.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

AFTER = (
    4  # steps of a kind that are launched first: Triton compiles in them, and what is asked for once is not kept
)
KEPT = 4  # kinds of step
LARGEST = 64 << 20  # tokens times channels; larger steps (14B, 1.3B at 1280x720) keep the card busy as they are
BYTES = 43  # of memory that a recording keeps, for each of those: 26 with fp8 layers, 33 int8, 42 bfloat16 (H100)

Run = Callable[[Sequence[Tensor]], Tensor]


class Graph(Protocol):
    """A computation on tensors that stay where they are, to be done again; `out` holds its last result."""

    out: Tensor

    def replay(self) -> None: ...


class CudaGraph:
    """`run(inputs)` recorded. It must not wait for the device, nor read what may be freed while the graph lives.

    pool: memory shared with other graphs, of which one runs at a time.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the card: they copy and measure.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.out = run(inputs)

    def replay(self) -> None:
        self.graph.replay()


@dataclass
class Recording:
    """A graph, the tensors that it reads, and where the weights lay. loaded: whose values are in `kept`."""

    graph: Graph
    fresh: list[Tensor]
    kept: list[Tensor]
    loaded: Sequence[Tensor]
    weights: tuple[int, ...]

    def holds(self, kept: Sequence[Tensor]) -> bool:
        return len(kept) == len(self.loaded) and all(a is b for a, b in zip(kept, self.loaded, strict=True))

    def replay(self, fresh: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        for tensor, new in zip(self.fresh, fresh, strict=True):
            tensor.copy_(new)
        if not self.holds(kept):
            for tensor, new in zip(self.kept, kept, strict=True):
                tensor.copy_(new)
            self.loaded = kept
        self.graph.replay()
        return self.graph.out.clone()


@dataclass
class Kind:
    launched: int = 0  # steps
    recording: Recording | None = None


class Recordings:
    """Of one model. A kind of step that comes again is recorded; the kinds asked for longest ago are dropped."""

    def __init__(self) -> None:
        self.on = True
        self.spare = 0  # bytes that whoever comes after the steps will need of the card
        self.kinds: dict[Hashable, Kind] = {}
        self.pool: Any = None  # torch names no type for it

    def __deepcopy__(self, memo: dict[int, object]) -> "Recordings":
        return Recordings()  # the copy's weights lie elsewhere

    def step(
        self,
        run: Run,
        fresh: Sequence[Tensor],
        kept: Sequence[Tensor],
        kind: Hashable,
        weights: Callable[[], Iterable[Tensor]],
        room: int,
    ) -> Tensor:
        """run([*fresh, *kept]), launched or replayed: the same bits.

        kind: what the launched kernels depend on beside the values of the tensors given. fresh: other tensors at
        each step. kept: the same ones for all steps of a render, not written to. weights: all else that `run`
        reads; where it lies is looked up when `kept` are others. room: bytes that a recording needs.
        """
        known = self.kinds.pop(kind, None) or Kind()
        there = known.recording
        if there is not None and not there.holds(kept) and there.weights != places(weights()):
            known, there = Kind(), None
        if there is None and known.launched >= AFTER and room + self.spare <= free_bytes():
            there = known.recording = self.record(run, fresh, kept, weights)
        known.launched += there is None
        self.kinds[kind] = known
        while len(self.kinds) > KEPT:
            del self.kinds[next(iter(self.kinds))]
        return run([*fresh, *kept]) if there is None else there.replay(fresh, kept)

    def record(
        self,
        run: Run,
        fresh: Sequence[Tensor],
        kept: Sequence[Tensor],
        weights: Callable[[], Iterable[Tensor]],
    ) -> Recording:
        # Outside inference mode, so that a step in any mode may write to the tensors.
        with torch.inference_mode(False), torch.no_grad():
            own = [[torch.empty_like(t).copy_(t) for t in tensors] for tensors in (fresh, kept)]
            return Recording(self.graph(run, [*own[0], *own[1]]), own[0], own[1], kept, places(weights()))

    @property
    def any(self) -> bool:
        return any(kind.recording for kind in self.kinds.values())

    def graph(self, run: Run, inputs: Sequence[Tensor]) -> Graph:
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        return CudaGraph(run, inputs, self.pool)


def pays(x: Tensor, size: int) -> bool:
    """Whether a step of `size` tokens times channels on x's device is one that may wait for its host."""
    return x.is_cuda and size <= LARGEST


def free_bytes() -> int:
    """Of the present card, with what torch keeps of it unused."""
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + unused


def places(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)
