"""The element-wise work: each operation beside its bytes' time and plain torch's, and other configurations."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import accuracy
from kernels.bench.timing import seconds
from kernels.elementwise import fused, reference
from kernels.elementwise.reference import Affine, Modulation
from kernels.quantized import FP8, Rows
from kernels.tuning import elementwise as tuning

SAME = 2e-3  # against the same arithmetic in torch
# Rows in 8 bits: where a float32 rounding differs from torch's at a tie of two codes, an element moves by at least
# 6 %, and on a few rows one such element shows.
SAME_CODES = 4e-3
ATTENDED = accuracy.BFLOAT16  # torch's attention rounds its weights to bfloat16 elsewhere
CHECKED = 300  # rows that are compared
EPS = 1e-6


@dataclass(frozen=True)
class Shape:
    name: str
    length: int
    dim: int
    ffn: int
    heads: int
    keys: int = 128  # of a prompt of some hundred tokens
    all_keys: int = 512


SHAPES = (Shape("1.3B 832x480", 32_760, 1536, 8960, 12), Shape("14B 1280x720", 75_600, 5120, 13_824, 40))


@dataclass(frozen=True)
class Inputs:
    """What the operations of one block take, in the strides that they come in."""

    x: Tensor
    y: Tensor
    packed: Tensor  # [1, L, 3 C]: q, k, v
    ffn: Tensor
    modulation: Modulation
    gate: Tensor
    affine: Affine
    weight: Tensor
    table: Tensor
    k: Tensor  # [1, n, h, d] of a prompt
    bias: Tensor
    reach: Tensor
    k_all: Tensor

    @staticmethod
    def draw(shape: Shape, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> "Inputs":
        torch.manual_seed(0)

        def normal(*size: int, as_type: torch.dtype = dtype) -> Tensor:
            return torch.randn(size, device=device, dtype=as_type)

        length, dim, head = shape.length, shape.dim, shape.dim // shape.heads
        e = normal(1, 6, dim, as_type=torch.float32) / 2
        angles = normal(length, 1, head // 2, as_type=torch.float32)
        bias = torch.zeros(1, shape.keys, device=device)
        bias[0, -1] = 6.0
        k = normal(1, shape.keys, shape.heads, head)
        return Inputs(
            normal(1, length, dim) * 3,
            normal(1, length, dim),
            normal(1, length, 3 * dim),
            normal(1, length, shape.ffn),
            Modulation(e[:, 1], e[:, 0], EPS),
            e[:, 2],
            Affine(1 + normal(dim) / 4, normal(dim), EPS),
            1 + normal(dim) / 4,
            torch.stack([angles.cos(), angles.sin()]),
            k,
            bias,
            k.float().abs().amax((1, 2, 3)),
            normal(1, shape.all_keys, shape.heads, head),
        )

    def first(self, rows: int) -> "Inputs":
        """The same of fewer rows: what the check compares."""
        cut = {name: getattr(self, name)[:, :rows] for name in ("x", "y", "packed", "ffn", "table")}
        return Inputs(**{**{name: getattr(self, name) for name in self.__dataclass_fields__}, **cut})


@dataclass(frozen=True)
class Operation:
    """`bytes` of a row, read and written once; `run` by fused or reference, by its own configuration or another.

    `exact`: what to compare with instead of the reference, where that rounds elsewhere.
    """

    name: str
    bytes: float
    run: Callable[..., Any]
    variants: tuple[Any, ...] = ()
    same: float = SAME
    exact: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Timed:
    name: str
    seconds: float
    floor: float
    torch: float | None = None

    def line(self) -> str:
        beside = "" if self.torch is None else f"  torch {self.torch * 1e3:8.3f} ms"
        share = self.floor / self.seconds
        return (
            f"{self.name:<52} {self.seconds * 1e3:8.3f} ms  floor {self.floor * 1e3:8.3f} ms  {share:6.1%}{beside}"
        )

    def data(self) -> dict[str, float | str | None]:
        return {
            "operation": self.name,
            "ms": self.seconds * 1e3,
            "floor_ms": self.floor * 1e3,
            "share": self.floor / self.seconds,
            "torch_ms": None if self.torch is None else self.torch * 1e3,
        }


def operations(i: Inputs, shape: Shape, codes: torch.dtype) -> list[Operation]:
    """Every operation of a block. i: Inputs; codes: the 8-bit dtype of the card."""
    c, f = shape.dim, shape.ffn
    q, k, _ = i.packed.split(c, dim=2)
    heads = i.y.unflatten(2, (shape.heads, -1))
    rows = row_variants()

    def apart(o: Any) -> tuple[Tensor, Tensor | Rows]:
        x = o.gate_residual(i.x, i.y, i.gate)
        return x, o.norm(x, i.modulation, codes)

    def turned(o: Any, **how: Any) -> tuple[Tensor, Tensor]:
        return o.rms_norm_rope(q, k, i.weight, i.weight, i.table, shape.heads, EPS, **how)

    def prompt() -> Tensor:
        return accuracy.attend_prompt(i.y, i.weight, EPS, i.k, i.k, i.bias, i.reach)

    exact = prompt if codes == torch.float8_e4m3fn else None  # other rows are made of a rounded output
    angles = 4 * c / shape.heads
    return [
        Operation("norm, modulated", 4 * c, lambda o: o.norm(i.x, i.modulation)),
        Operation("norm, modulated, 8 bits", 3 * c, lambda o: o.norm(i.x, i.modulation, codes)),
        Operation("norm, modulated, int8", 3 * c, lambda o: o.norm(i.x, i.modulation, torch.int8)),
        Operation("norm, affine, 8 bits", 3 * c, lambda o: o.norm(i.x, i.affine, codes)),
        Operation("gate + residual", 6 * c, lambda o: o.gate_residual(i.x, i.y, i.gate)),
        Operation("gate + residual, then norm in 8 bits, two launches", 9 * c, apart),
        Operation(
            "gate + residual + norm in 8 bits", 7 * c,
            lambda o, **h: o.gate_residual_norm(i.x, i.y, i.gate, i.modulation, codes, **h), rows,
        ),
        Operation(
            "gate + residual + norm", 8 * c, lambda o: o.gate_residual_norm(i.x, i.y, i.gate, i.modulation)
        ),
        Operation(
            "residual + affine norm in 8 bits", 7 * c,
            lambda o: o.gate_residual_norm(i.x, i.y, None, i.affine, codes),
        ),
        Operation("RMSNorm + RoPE of q and k", 8 * c + angles, turned, rows),
        Operation("RMSNorm", 4 * c, lambda o: o.rms_norm(q, i.weight, EPS)),
        Operation("GELU", 4 * f, lambda o: o.gelu(i.ffn)),
        Operation("GELU, 8 bits", 3 * f, lambda o: o.gelu(i.ffn, codes)),
        Operation("to 8 bits", 3 * c, lambda o, **h: o.quantize(i.y, codes, **h), rows),
        Operation(
            f"attention to {shape.keys} keys", 4 * c,
            lambda o, **h: o.attend_few(heads, i.k, i.k, i.bias, **h), few_key_variants(), ATTENDED,
        ),
        Operation(
            f"RMSNorm, attention to {shape.keys} keys, 8 bits", 5 * c,
            lambda o: o.attend_prompt(i.y, i.weight, EPS, i.k, i.k, i.bias, i.reach, codes), (),
            accuracy.FP8 if exact is None else SAME, exact,
        ),
        Operation(
            f"attention to all {shape.all_keys} keys (torch)", 4 * c,
            lambda _: reference.attend_few(heads, i.k_all, i.k_all, None),
        ),
    ]  # fmt: skip


def row_variants() -> tuple[tuning.Rows, ...]:
    return tuple(tuning.Rows(warps) for warps in (1, 2, 4, 8))


def few_key_variants() -> tuple[tuning.FewKeys, ...]:
    every = (
        (64, 128, 4, 2, 8), (64, 128, 4, 1, 8), (64, 128, 4, 3, 4), (64, 128, 4, 2, 0), (128, 128, 8, 2, 4),
        (128, 128, 8, 1, 8), (128, 128, 4, 2, 4), (128, 64, 8, 2, 0), (128, 64, 4, 2, 0),
    )  # fmt: skip
    return tuple(tuning.FewKeys(*how) for how in every)


def eight_bits(device: torch.device) -> torch.dtype:
    """float8 where the card has it."""
    fp8 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)
    return FP8 if fp8 else torch.int8


def measure(shape: Shape, inputs: Inputs, copy: float, with_torch: bool = True) -> Iterator[Timed | str]:
    """Every operation; a text where one fails. copy: bytes a second of this card."""
    for one in operations(inputs, shape, eight_bits(inputs.x.device)):
        floor = one.bytes * shape.length / copy
        try:
            took = seconds(lambda o=one: o.run(fused), queued=True)
            plain = seconds(lambda o=one: o.run(reference), repeats=3, warm=1, queued=True) if with_torch else None
            yield Timed(one.name, took, floor, plain)
        except Exception as error:  # what does not run on this card is a finding
            yield failure(one.name, error)


def other_configurations(shape: Shape, inputs: Inputs, copy: float) -> Iterator[Timed | str]:
    for one in operations(inputs, shape, eight_bits(inputs.x.device)):
        for config in one.variants:
            label = f"{one.name}: " + " ".join(f"{k} {v}" for k, v in asdict(config).items())
            try:
                took = seconds(lambda o=one, c=config: o.run(fused, config=c), repeats=7, warm=2, queued=True)
                yield Timed(label, took, one.bytes * shape.length / copy)
            except Exception as error:  # a configuration that does not compile or fit is a finding
                yield failure(label, error)


def failure(label: str, error: Exception) -> str:
    return f"{label}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def check(inputs: Inputs, shape: Shape) -> dict[str, tuple[float, float]]:
    """Each operation's error against the same arithmetic in torch, on the first rows, and its limit.

    Infinity where it fails.
    """
    few = inputs.first(CHECKED)
    found: dict[str, tuple[float, float]] = {}
    for one in operations(few, shape, eight_bits(few.x.device)):
        try:
            expected = one.run(reference) if one.exact is None else one.exact()
            limit = max(one.same, SAME_CODES) if in_8_bits(expected) else one.same
            found[one.name] = error_of(one.run(fused), expected), limit
        except Exception:  # `measure` tells it
            found[one.name] = float("inf"), one.same
    return found


def in_8_bits(out: Any) -> bool:
    return isinstance(out, Rows) or (isinstance(out, tuple) and any(map(in_8_bits, out)))


def error_of(found: Any, expected: Any) -> float:
    if isinstance(expected, tuple):
        return max(error_of(f, e) for f, e in zip(found, expected, strict=True))
    found, expected = (t.float() if isinstance(t, Rows) else t for t in (found, expected))
    return accuracy.relative_error(found, expected)


def report(say: Callable[[str], None], copy: float, variants: bool) -> tuple[bool, list[dict[str, Any]]]:
    """Prints and returns everything: (whether all is right, data)."""
    right, entries = True, []
    for shape in SHAPES:
        say(f"\nelement-wise, {shape.name}: L={shape.length} C={shape.dim} ffn={shape.ffn}")
        inputs = Inputs.draw(shape)
        errors = check(inputs, shape)
        for name, (error, limit) in errors.items():
            if not error <= limit:
                right = False
                say(f"  {name}: error {error:.1e} against torch, the limit is {limit:.0e}")
        worst = max(errors, key=lambda name: errors[name][0])
        say(f"  largest error against the same arithmetic in torch: {errors[worst][0]:.1e}, {worst}")
        plain = {name: error for name, (error, _) in errors.items()}
        entry: dict[str, Any] = {"shape": shape.name, "errors": plain, "operations": [], "variants": []}
        for row in measure(shape, inputs, copy):
            say("  " + (row.line() if isinstance(row, Timed) else row))
            entry["operations"].append(row.data() if isinstance(row, Timed) else {"failed": row})
        if variants:
            for row in other_configurations(shape, inputs, copy):
                say("  " + (row.line() if isinstance(row, Timed) else row))
                entry["variants"].append(row.data() if isinstance(row, Timed) else {"failed": row})
        entries.append(entry)
        del inputs
    return right, entries
