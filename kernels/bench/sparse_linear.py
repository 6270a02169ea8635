"""Sparse-linear attention: the module, its stages, other configurations, accuracy and memory."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels import accuracy
from kernels.attention import block_map, sparse_linear
from kernels.bench.timing import Ceilings, Work, seconds
from kernels.reference import K_BLOCK, Q_BLOCK
from kernels.tuning import sparse_linear as tuning

DIM = 128
TOPK = 0.1


@dataclass(frozen=True)
class Shape:
    name: str
    length: int
    heads: int


SHAPES = (Shape("1.3B 832x480", 32_760, 12), Shape("14B 1280x720", 75_600, 40))


@dataclass(frozen=True)
class Inputs:
    """q, k, v [1, L, h, d] with an offset channel in k, and a layer's proj_l."""

    q: Tensor
    k: Tensor
    v: Tensor
    weight: Tensor
    bias: Tensor

    @staticmethod
    def draw(shape: Shape, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> "Inputs":
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, shape.length, shape.heads, DIM, device=device, dtype=dtype) for _ in range(3))
        k[..., 3] += 8
        weight = torch.randn(DIM, DIM, device=device, dtype=dtype) / DIM**0.5
        return Inputs(q, k, v, weight, torch.randn(DIM, device=device, dtype=dtype))


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds beside the floor."""

    stage: str
    seconds: float
    floor: float

    @property
    def share(self) -> float:
        return self.floor / self.seconds if self.floor else 0.0


def kept_keys(shape: Shape) -> int:
    return max(1, int(TOPK * -(-shape.length // K_BLOCK))) * K_BLOCK


def work(shape: Shape) -> dict[str, Work]:
    """Floors of the module and of its three stages."""
    tokens = shape.length * shape.heads
    tensor = tokens * DIM * 2  # bytes of q, k, v or o
    pooled = shape.heads * (shape.length / Q_BLOCK) * (shape.length / K_BLOCK) * DIM * 2
    sparse, linear = 4.0 * tokens * kept_keys(shape) * DIM, 2.0 * tokens * DIM * DIM
    return {
        "module": Work(pooled + sparse + 2 * linear, 4 * tensor),
        "block map": Work(pooled, 2 * tensor),
        "linear state": Work(linear, 2 * tensor),
        "attend": Work(sparse + linear, 4 * tensor),
    }


def run(inputs: Inputs) -> Tensor:
    return sparse_linear.sparse_linear_attention(inputs.q, inputs.k, inputs.v, inputs.weight, inputs.bias, TOPK)


@dataclass(frozen=True)
class Prepared:
    """What the sparse pass takes."""

    index: Tensor
    folded: Tensor
    norm: Tensor
    bias: Tensor

    @staticmethod
    def of(inputs: Inputs, config: tuning.State) -> "Prepared":
        state, norm = sparse_linear.linear_state(inputs.k, inputs.v, config)
        index = block_map.block_index(inputs.q, inputs.k, TOPK)
        return Prepared(index, sparse_linear.fold_projection(state, inputs.weight), norm, inputs.bias.float())

    def attend(self, inputs: Inputs, config: tuning.Attend) -> Tensor:
        return sparse_linear.sparse_attention(
            inputs.q, inputs.k, inputs.v, self.index, self.folded, self.norm, self.bias, config
        )


def stages(shape: Shape, inputs: Inputs, ceilings: Ceilings) -> list[Row]:
    """The module, its three stages, and the parts of the block map (those have no floor of their own)."""
    q, k = inputs.q, inputs.k
    config = tuning.of_device(q.device, DIM, q.dtype)
    ready = Prepared.of(inputs, config.state)
    mean = k.mean(dim=1)
    pooled_q, pooled_k = block_map.pooled(q, None, Q_BLOCK), block_map.pooled(k, mean, K_BLOCK)
    score = pooled_q @ pooled_k.transpose(2, 3)

    def state() -> Tensor:
        summed, _ = sparse_linear.linear_state(k, inputs.v, config.state)
        return sparse_linear.fold_projection(summed, inputs.weight)

    parts: dict[str, Callable[[], object]] = {
        "module": lambda: run(inputs),
        "block map": lambda: block_map.block_index(q, k, TOPK),
        "linear state": state,
        "attend": lambda: ready.attend(inputs, config.attend),
        "- mean of k": lambda: k.mean(dim=1),
        "- pool q": lambda: block_map.pooled(q, None, Q_BLOCK),
        "- pool k": lambda: block_map.pooled(k, mean, K_BLOCK),
        "- scores": lambda: pooled_q @ pooled_k.transpose(2, 3),
        "- top-k": lambda: block_map.best_blocks(score, TOPK),
    }
    floors = {name: w.floor(ceilings) for name, w in work(shape).items()}
    return [Row(name, seconds(part), floors.get(name, 0.0)) for name, part in parts.items()]


def variants(inputs: Inputs, shape: Shape, ceilings: Ceilings) -> Iterator[tuple[str, Row | str]]:
    """Other configurations of both kernels; a text where one does not fit the card."""
    base = tuning.of_device(inputs.q.device, DIM, inputs.q.dtype)
    ready = Prepared.of(inputs, base.state)
    floors = {name: w.floor(ceilings) for name, w in work(shape).items()}
    attends = [
        tuning.Attend(queries, keys, warps, depth)
        for queries, keys, warps in ((128, 64, 8), (128, 64, 4), (64, 64, 4), (64, 64, 8), (128, 32, 8))
        for depth in (2, 3, 4)
    ]
    states = [
        replace(base.state, keys=keys, warps=warps, stages=depth, split=split)
        for keys, warps, depth, split in (
            (64, 8, 2, 2048), (64, 8, 3, 2048), (64, 4, 3, 2048), (32, 4, 3, 2048), (32, 8, 3, 2048),
            (128, 8, 2, 2048), (64, 8, 3, 1024), (64, 8, 3, 4096),
        )
    ]  # fmt: skip
    for config in (*attends, *states):
        stage = "attend" if isinstance(config, tuning.Attend) else "linear state"
        label = " ".join(f"{name} {value}" for name, value in asdict(config).items())
        run_one: Callable[[], object] = (
            (lambda c=config: ready.attend(inputs, c))
            if isinstance(config, tuning.Attend)
            else (lambda c=config: sparse_linear.linear_state(inputs.k, inputs.v, c))
        )
        try:
            yield stage, Row(label, seconds(run_one, repeats=7, warm=2), floors[stage])
        except Exception as error:  # a configuration that does not compile or fit is a finding
            yield stage, f"{label}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def check(inputs: Inputs) -> dict[str, Any]:
    """Error against float32 with the same block map, on the first, last and some blocks of the outer heads.

    Also the blocks that the reference would not have kept, and the memory at the peak beyond the inputs.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = run(inputs)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    index = block_map.block_index(inputs.q, inputs.k, TOPK)
    length, heads = inputs.q.shape[1:3]
    last = -(-length // Q_BLOCK) - 1
    difference = size = 0.0
    for head in (0, heads - 1):
        one = slice(head, head + 1)
        for block in sorted({0, 1, last // 3, last // 2, last - 1, last}):
            rows = slice(block * Q_BLOCK, (block + 1) * Q_BLOCK)
            expected = accuracy.sparse_linear_given(
                inputs.q[:, rows, one],
                inputs.k[:, :, one],
                inputs.v[:, :, one],
                index[:, one, block : block + 1],
                inputs.weight,
                inputs.bias,
            ).double()
            difference += float((out[:, rows, one].double() - expected).square().sum())
            size += float(expected.square().sum())
    unlike: list[tuple[int, int]] = []
    for head in range(heads):  # by heads: the reference's float32 copies are large
        one = slice(head, head + 1)
        unlike.append(accuracy.worse_blocks(inputs.q[:, :, one], inputs.k[:, :, one], index[:, one], TOPK))
    again = run(inputs)
    return {
        "error": (difference / size) ** 0.5,
        "limit": accuracy.BFLOAT16,
        "finite": bool(out.isfinite().all()),
        "same bits twice": bool(torch.equal(out, again)),
        "blocks listed": index.numel(),
        "blocks unlike the reference": sum(other for other, _ in unlike),
        "of them no near tie": sum(wrong for _, wrong in unlike),
        "peak bytes beyond inputs": peak,
        "output bytes": out.numel() * out.element_size(),
    }
