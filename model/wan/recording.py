"""A small denoising step recorded once as a CUDA graph and replayed: no kernel of it waits for the host.

Launched one by one from Python, the 770 kernels of a step may take longer than a small step computes.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Steps of a kind that are launched first: Triton compiles in them, and what is asked for once is not recorded.
AFTER = 4
KEPT = 4  # recordings
COUNTED = 64  # kinds of step whose number is known
LARGEST = 64 << 20  # tokens times channels of a step; kernels of larger ones take several times their launching
# Of memory that a recording keeps, for each of those: 26 with fp8 layers, 33 int8, 42 bfloat16 (H100).
BYTES = 43
MARGIN = 256 << 20  # bytes: the driver's own of a graph

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
        device = inputs[0].device
        own = torch.cuda.Stream(device)  # torch's default for this lies on the first card that ever recorded
        # The present stream is come back to even where recording fails half way. Other threads' calls are not
        # refused meanwhile: a farm's worker has several, and none uses these tensors.
        with (
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.cuda.graph(self.graph, pool=pool, stream=own, capture_error_mode="thread_local"),
        ):
            self.out = run(inputs)
        # What cuBLAS works in was made in the pool and kept for its stream: others are to have it.
        torch._C._cuda_clearCublasWorkspaces()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]

    def replay(self) -> None:
        self.graph.replay()


@dataclass
class Recording:
    """A graph and the tensors that it reads. loaded: whose values are in `kept`; weights: alive, at `places`."""

    graph: Graph
    fresh: list[Tensor]
    kept: list[Tensor]
    loaded: Sequence[Tensor]
    weights: list[Tensor]
    places: list[Hashable]

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


class Recordings:
    """Of one model. A kind of step that comes again is recorded; those asked for longest ago are dropped."""

    def __init__(self) -> None:
        self.on = True
        self.spare = 0  # bytes that whoever comes after the steps will need of the card
        self.held = 0  # bytes of the pool
        self.launched: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, Recording] = {}
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
        reads; whether it is where it was is looked up when `kept` are others, so a render's weights are not
        replaced before its end. room: bytes that the steps of a recording need.
        """
        if not self.on:
            return run([*fresh, *kept])
        there = self.recorded.pop(kind, None)
        if there is not None and not there.holds(kept) and there.places != places(weights()):
            there = None
            self.launched.pop(kind, None)
        if there is None:
            there = self._recorded(run, fresh, kept, kind, weights, room)
        if there is None:
            return run([*fresh, *kept])
        self.recorded[kind] = there
        while len(self.recorded) > KEPT:
            oldest = next(iter(self.recorded))
            del self.recorded[oldest]
            self.launched.pop(oldest, None)
        return there.replay(fresh, kept)

    def _recorded(
        self,
        run: Run,
        fresh: Sequence[Tensor],
        kept: Sequence[Tensor],
        kind: Hashable,
        weights: Callable[[], Iterable[Tensor]],
        room: int,
    ) -> Recording | None:
        """A recording, if the kind came often enough and it can be had; else the kind is counted."""
        count = self.launched.pop(kind, 0)
        self.launched[kind] = min(count + 1, AFTER)
        while len(self.launched) > COUNTED:
            del self.launched[next(iter(self.launched))]
        if count < AFTER:
            return None
        need = max(room, self.held) + sum(tensor.nbytes for tensor in kept) + MARGIN + self.spare
        if need > available_bytes():
            return None
        try:
            return self.record(run, fresh, kept, weights)
        except torch.OutOfMemoryError:
            self.launched[kind] = 0  # there may be room another time
        except RuntimeError as error:
            # A render does not fail for this: its kernels are launched, as before.
            self.on = False
            warnings.warn(f"steps of this model are not recorded, for that failed: {error}", stacklevel=2)
        return None

    def record(
        self,
        run: Run,
        fresh: Sequence[Tensor],
        kept: Sequence[Tensor],
        weights: Callable[[], Iterable[Tensor]],
    ) -> Recording:
        if not self.recorded:  # torch takes no pool again whose graphs are all gone
            self.pool, self.held = None, 0
        before = needed_bytes()
        # Outside inference mode, so that a step in any mode may write to the tensors.
        with torch.inference_mode(False), torch.no_grad():
            own = [[torch.empty_like(t).copy_(t) for t in tensors] for tensors in (fresh, kept)]
            graph = self.capture(run, [*own[0], *own[1]])
            self.held += needed_bytes() - before
            read = [tensor.detach() for tensor in weights()]
        return Recording(graph, own[0], own[1], kept, read, places(read))

    def capture(self, run: Run, inputs: Sequence[Tensor]) -> Graph:
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        return CudaGraph(run, inputs, self.pool)

    def give_way(self, need: int) -> None:
        """Let every recording go where so many bytes would not be there beside them."""
        if self.recorded and need > available_bytes() - self.held:
            self.clear()

    def clear(self) -> None:
        self.recorded.clear()
        self.launched.clear()
        self.pool, self.held = None, 0


def pays(x: Tensor, size: int) -> bool:
    """Whether a step of `size` tokens times channels on x's device is one that may wait for its host."""
    return x.is_cuda and size <= LARGEST


def available_bytes() -> int:
    """Of the present card, with what torch keeps of it unused, pools of graphs included."""
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + unused


def needed_bytes() -> int:
    """Of the present card, by tensors and the pools of graphs."""
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def places(tensors: Iterable[Tensor]) -> list[Hashable]:
    return [(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors]
