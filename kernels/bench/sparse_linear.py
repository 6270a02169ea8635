"""Sparse-linear attention: the module, its stages, other configurations, accuracy and memory."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels import accuracy
from kernels.attention import block_map, operands, sparse_linear
from kernels.bench.timing import Ceilings, Work, seconds
from kernels.reference import K_BLOCK, Q_BLOCK
from kernels.tuning import sparse_linear as tuning

DIM = 128
TOPK = 0.1
EIGHT_BIT_RATE = 2  # 8-bit products a bfloat16 product's time, on the cards that have them


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


def work_8bit(shape: Shape) -> dict[str, Work]:
    """The same with the sparse pass in 8 bits, whose operations count for half; operands are half as large."""
    of = work(shape)
    tensor = shape.length * shape.heads * DIM * 2
    sparse = 4.0 * shape.length * shape.heads * kept_keys(shape) * DIM / EIGHT_BIT_RATE
    linear = of["linear state"].flops
    return {
        "8-bit module": Work(of["block map"].flops + sparse + 2 * linear, 4 * tensor),
        "8-bit moments": Work(linear, 2 * tensor),
        "8-bit operands": Work(0, 4.5 * tensor),
        "8-bit block map": Work(of["block map"].flops, 0),
        "8-bit attend": Work(sparse + linear, 3.5 * tensor),
    }


def run(inputs: Inputs, arithmetic: tuning.Arithmetic | None = None) -> Tensor:
    return sparse_linear.sparse_linear_attention(
        inputs.q, inputs.k, inputs.v, inputs.weight, inputs.bias, TOPK, arithmetic
    )


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
    """The module and its stages in both arithmetics, and the parts of the block map (those have no floor)."""
    q, k = inputs.q, inputs.k
    config = tuning.of_device(q.device, DIM, q.dtype)
    ready = Prepared.of(inputs, config.state)
    mean = k.mean(dim=1)
    pooled_q, pooled_k = block_map.pooled(q, None, Q_BLOCK), block_map.pooled(k, mean, K_BLOCK)
    score, blocks = pooled_q @ pooled_k.transpose(2, 3), -(-shape.length // K_BLOCK)

    def state() -> Tensor:
        summed, _ = sparse_linear.linear_state(k, inputs.v, config.state)
        return sparse_linear.fold_projection(summed, inputs.weight)

    parts: dict[str, Callable[[], object]] = {
        "module": lambda: run(inputs, "bf16"),
        "block map": lambda: block_map.block_index(q, k, TOPK),
        "linear state": state,
        "attend": lambda: ready.attend(inputs, config.attend),
        "- mean of k": lambda: k.mean(dim=1),
        "- pool q": lambda: block_map.pooled(q, None, Q_BLOCK),
        "- pool k": lambda: block_map.pooled(k, mean, K_BLOCK),
        "- scores": lambda: pooled_q @ pooled_k.transpose(2, 3),
        "- top-k": lambda: block_map.best_blocks(score, blocks, TOPK),
    }
    for warps in (1, 2, 8):
        parts[f"- top-k, {warps} warps"] = lambda w=warps: block_map.best_blocks(score, blocks, TOPK, w)
    if tuning.has_8bit(q.device):
        parts |= _stages_8bit(inputs)
    floors = {name: w.floor(ceilings) for name, w in (work(shape) | work_8bit(shape)).items()}
    return [Row(name, seconds(part, queued=True), floors.get(name, 0.0)) for name, part in parts.items()]


def _stages_8bit(inputs: Inputs) -> dict[str, Callable[[], object]]:
    q, k, v = inputs.q, inputs.k, inputs.v
    config = tuning.of_device_8bit(q.device, DIM)
    ready = sparse_linear.prepare_8bit(q, k, v, inputs.weight, TOPK, config)
    means, blocks = ready.operands, -(-k.shape[1] // K_BLOCK)
    parts = operands.survey(k, v, config.survey)
    return {
        "8-bit module": lambda: run(inputs, "8bit"),
        "8-bit moments": lambda: operands.moments(k, v, inputs.weight, config.survey),
        "- survey": lambda: operands.survey(k, v, config.survey),
        "- fold": lambda: operands.fold(parts, k, inputs.weight),
        "8-bit operands": lambda: operands.operands(q, k, v, ready.moments, config.quantize),
        "8-bit block map": lambda: block_map.index_of_means(means.pooled_q, means.pooled_k, blocks, TOPK),
        "8-bit attend": lambda: sparse_linear.attend_8bit(q, ready, inputs.bias, config.attend),
    }


def variants(inputs: Inputs, shape: Shape, ceilings: Ceilings) -> Iterator[tuple[str, Row | str]]:
    """Other configurations of the kernels; a text where one does not fit the card.

    Those of the 8-bit sparse pass say how far their output is from the first one's.
    """
    runs = _variants_bf16(inputs)
    first: Tensor | None = None
    if tuning.has_8bit(inputs.q.device):
        runs += _variants_8bit(inputs)
    floors = {name: w.floor(ceilings) for name, w in (work(shape) | work_8bit(shape)).items()}
    for stage, label, run_one in runs:
        try:
            found = run_one()
            if stage == "8-bit attend" and isinstance(found, Tensor):
                first = found if first is None else first
                label += f" differs {accuracy.relative_error(found, first):.1e}"
            del found
            yield stage, Row(label, seconds(run_one, repeats=7, warm=2, queued=True), floors[stage])
        except Exception as error:  # a configuration that does not compile or fit is a finding
            yield stage, f"{label}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


Variant = tuple[str, str, Callable[[], object]]  # stage, what it is, the run


def label_of(config: Any) -> str:
    if isinstance(config, tuning.AttendHopper):
        return "hopper " + " ".join(f"{name} {value}" for name, value in asdict(config).items())
    return " ".join(f"{name} {value}" for name, value in asdict(config).items())


def _variants_bf16(inputs: Inputs) -> list[Variant]:
    base = tuning.of_device(inputs.q.device, DIM, inputs.q.dtype)
    ready = Prepared.of(inputs, base.state)
    attends = [
        tuning.Attend(queries, keys, warps, depth)
        for queries, keys, warps in ((128, 64, 4), (64, 64, 4))
        for depth in (2, 3)
    ]
    states = [
        replace(base.state, keys=keys, warps=warps, stages=depth, split=split)
        for keys, warps, depth, split in (
            (64, 4, 3, 2048), (128, 8, 2, 2048), (64, 4, 3, 1024),
        )
    ]  # fmt: skip
    found: list[Variant] = [("attend", label_of(c), lambda c=c: ready.attend(inputs, c)) for c in attends]
    return found + [
        ("linear state", label_of(c), lambda c=c: sparse_linear.linear_state(inputs.k, inputs.v, c)) for c in states
    ]


def _variants_8bit(inputs: Inputs) -> list[Variant]:
    q, k, v = inputs.q, inputs.k, inputs.v
    base = tuning.of_device_8bit(q.device, DIM)
    ready = sparse_linear.prepare_8bit(q, k, v, inputs.weight, TOPK, base)
    attends = [
        tuning.Attend8(64, 128, 4, 5),
        tuning.Attend8(64, 128, 4, 2),
        tuning.Attend8(64, 64, 4, 5),
        tuning.Attend8(128, 128, 8, 5),
    ]
    surveys = [
        tuning.Survey(keys, warps, depth, registers, split)
        for keys, warps, depth, registers, split in (
            (64, 8, 3, None, 0), (64, 8, 4, None, 0), (64, 8, 3, None, 2048), (64, 8, 3, None, 4096),
            (32, 8, 3, None, 0), (32, 8, 3, 128, 0), (32, 16, 3, 128, 0),
        )
    ]  # fmt: skip
    found: list[Variant] = [
        ("8-bit attend", label_of(c), lambda c=c: sparse_linear.attend_8bit(q, ready, inputs.bias, c))
        for c in attends
    ]
    found += [("8-bit moments", label_of(c), lambda c=c: operands.moments(k, v, inputs.weight, c)) for c in surveys]
    found += [
        ("8-bit operands", f"warps {w}", lambda w=w: operands.operands(q, k, v, ready.moments, tuning.Quantize(w)))
        for w in (2, 4, 8)
    ]
    if q.device.type == "cuda" and torch.cuda.get_device_capability(q.device) == (9, 0):
        found += _variants_hopper(inputs, base, ready)
    return found


def _variants_hopper(inputs: Inputs, base: tuning.Config8, ready: sparse_linear.Prepared) -> list[Variant]:
    q = inputs.q
    own = [tuning.AttendHopper(depth) for depth in (2, 3, 4)]
    found: list[Variant] = [
        ("8-bit attend", label_of(c), lambda c=c: sparse_linear.attend_8bit(q, ready, inputs.bias, c)) for c in own
    ]

    def module(config: tuning.AttendHopper) -> Tensor:
        made = sparse_linear.prepare_8bit(q, inputs.k, inputs.v, inputs.weight, TOPK, base)
        return sparse_linear.attend_8bit(q, made, inputs.bias, config)

    return found + [("8-bit module", label_of(c), lambda c=c: module(c)) for c in own]


def check(inputs: Inputs) -> dict[str, Any]:
    """Error against float32 with the same block map, on the first, last and some blocks of the outer heads.

    Of the arithmetic that this card takes by itself; of the 8-bit one also against its own emulation. Then the
    blocks that the reference would not have kept, and the memory at the peak beyond the inputs.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = run(inputs)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    by_itself = tuning.faster(inputs.q.device, inputs.q.dtype)
    index, error, _ = judged(inputs, by_itself)
    more: dict[str, Any] = {}
    for arithmetic in ("bf16", "8bit") if tuning.has_8bit(inputs.q.device) else ():
        _, other, emulated = judged(inputs, arithmetic)
        more[f"{arithmetic} error"] = other
        if arithmetic == "8bit":
            more["8bit error of its arithmetic"] = emulated
    unlike: list[tuple[int, int]] = []
    for head in range(inputs.q.shape[2]):  # by heads: the reference's float32 copies are large
        one = slice(head, head + 1)
        unlike.append(accuracy.worse_blocks(inputs.q[:, :, one], inputs.k[:, :, one], index[:, one], TOPK))
    again = run(inputs)
    return {
        "arithmetic": by_itself,
        "error": error,
        "limit": accuracy.BFLOAT16 if by_itself == "bf16" else accuracy.FP8,
        **more,
        "finite": bool(out.isfinite().all()),
        "same bits twice": bool(torch.equal(out, again)),
        "blocks listed": index.numel(),
        "blocks unlike the reference": sum(other for other, _ in unlike),
        "of them no near tie": sum(wrong for _, wrong in unlike),
        "peak bytes beyond inputs": peak,
        "output bytes": out.numel() * out.element_size(),
    }


def judged(inputs: Inputs, arithmetic: tuning.Arithmetic) -> tuple[Tensor, float, float]:
    """(index, error against float32, error against the emulation of 8 bits) of some blocks of the outer heads."""
    q, k, v = inputs.q, inputs.k, inputs.v
    out = run(inputs, arithmetic)
    if arithmetic == "8bit":
        config = tuning.of_device_8bit(q.device, DIM)
        index = sparse_linear.prepare_8bit(q, k, v, inputs.weight, TOPK, config).index
    else:
        index = block_map.block_index(q, k, TOPK)
    last = -(-q.shape[1] // Q_BLOCK) - 1
    blocks = sorted({0, 1, last // 3, last // 2, last - 1, last} & set(range(last + 1)))
    lines = torch.cat([torch.arange(b * Q_BLOCK, min((b + 1) * Q_BLOCK, q.shape[1])) for b in blocks]).to(q.device)
    found: list[Tensor] = []
    exact: list[Tensor] = []
    same: list[Tensor] = []
    for head in sorted({0, q.shape[2] - 1}):
        one = slice(head, head + 1)
        given = (q[:, lines, one], k[:, :, one], v[:, :, one], index[:, one, blocks], inputs.weight, inputs.bias)
        found.append(out[:, lines, one])
        exact.append(accuracy.sparse_linear_given(*given))
        same.append(accuracy.sparse_linear_8bit(*given) if arithmetic == "8bit" else found[-1])
    whole = torch.cat(found)
    return (
        index,
        accuracy.relative_error(whole, torch.cat(exact)),
        accuracy.relative_error(whole, torch.cat(same)),
    )
