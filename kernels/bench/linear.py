"""The 8-bit linear layers of the transformer: torch's product, ours, its GELU and other configurations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import accuracy
from kernels.bench.timing import Ceilings, Work, seconds
from kernels.linear import fast, fp8, gemm, reach, reference, weights
from kernels.linear.weights import Tiles
from kernels.quantized import FP8, Rows, quantize_rows
from kernels.reference import quantize_blocks
from kernels.tuning import linear as tuning

FFN = "ffn.0"  # the layer that GELU follows
QKV = "q, k and v"  # one product for all three: that alone, its configurations are those of the others
Config = tuning.Gemm | tuning.GemmHopper
LIMIT = 2e-3  # against float64 on the same codes; bfloat16's rounding of the output is 1.7e-3 of it


@dataclass(frozen=True)
class Shape:
    """out [m, n] = x [m, k] W^T."""

    name: str
    m: int
    n: int
    k: int


SHAPES = tuple(
    Shape(f"{model} {name}", tokens, n, k)
    for model, tokens, dim, wide in (("1.3B 832x480", 32_760, 1536, 8960), ("14B 1280x720", 75_600, 5120, 13_824))
    for name, n, k in (("o", dim, dim), (FFN, wide, dim), ("ffn.2", dim, wide), (QKV, 3 * dim, dim))
)


@dataclass(frozen=True)
class Inputs:
    """Gaussian operands in every format."""

    x: Tensor  # bfloat16 [m, k]
    w: Tensor  # bfloat16 [n, k]
    bias: Tensor
    fp8: tuple[Rows, Rows]
    int8: tuple[Rows, Rows]
    tiles: Tiles
    reach: Tensor

    @staticmethod
    def draw(shape: Shape, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> "Inputs":
        torch.manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, device=device, dtype=dtype)

        x, w = normal(shape.m, shape.k), normal(shape.n, shape.k) / shape.k**0.5
        bias = torch.zeros(shape.n, device=device, dtype=dtype)  # a bias would hide errors of the product
        eight = quantize_rows(x, FP8), weights.by_channel(w, FP8)
        integer = quantize_rows(x, torch.int8), weights.by_channel(w, torch.int8)
        return Inputs(
            x, w, bias, eight, integer, Tiles(*quantize_blocks(w)), reference.reach(eight[1], bias)
        )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One way to compute one thing. `judge`: how far its output is from float64 on the same codes."""

    name: str
    run: Callable[[], object]
    judge: Callable[[slice], float] | None = None
    bytes: float = 0.0


@dataclass(frozen=True)
class Row:
    case: str
    seconds: float
    floor: float
    flops: float
    error: float | None

    @property
    def line(self) -> str:
        beside = "" if self.error is None else f"  error {self.error:.1e}"
        return (
            f"{self.case:<74} {self.seconds * 1e3:8.3f} ms  {self.flops / self.seconds / 1e12:6.0f} T"
            f"  {self.floor / self.seconds:6.1%} of the ceiling{beside}"
        )


def cases(shape: Shape, inputs: Inputs) -> list[Case]:
    """torch's product both ways, then ours plain and with GELU, in fp8, int8 and with a checkpoint's tiles."""
    x, w = inputs.fp8
    bias = inputs.bias
    plain = (shape.m + shape.n) * shape.k + 2 * shape.m * shape.n

    def case(name: str, run: Callable[[], Tensor], a: Rows, b: Rows | Tiles) -> Case:
        return Case(name, run, lambda rows: judged(run(), rows, a, b, bias), plain)

    def hidden(name: str, run: Callable[[], Rows]) -> Case:
        bytes = plain - shape.m * shape.n
        return Case(name, run, lambda rows: judged(run().float(), rows, x, w, bias, gelu=True), bytes)

    def ours(a: Rows, b: Rows | Tiles) -> Callable[[], Tensor]:
        return lambda: gemm.linear(a, b, bias)

    integers = inputs.int8[0]
    return [
        case("_scaled_mm, 14-bit sums", lambda: fp8.scaled_mm(x, w, bias, True), x, w),
        case("_scaled_mm, float32 sums", lambda: fp8.scaled_mm(x, w, bias, False), x, w),
        case("ours fp8", ours(x, w), x, w),
        case("as it runs", lambda: fast.linear(x, w, bias), x, w),
        hidden("as it runs, GELU to fp8 with its scale", lambda: fast.linear_gelu_rows(x, w, bias, inputs.reach)),
        hidden(
            "ours fp8, GELU to fp8 with its scale",
            lambda: gemm.linear_gelu_rows(x, w, bias, reach.bound(x, inputs.reach)),
        ),
        Case("- its scale alone", lambda: reach.bound(x, inputs.reach), None, shape.m * shape.k),
        case("ours int8", ours(*inputs.int8), *inputs.int8),
        case("ours int8, a checkpoint's tiles", ours(integers, inputs.tiles), integers, inputs.tiles),
    ]


def expected(rows: slice, x: Rows, weight: Rows | Tiles, bias: Tensor) -> Tensor:
    """Float64 on the same codes, of some rows."""
    return reference.linear(Rows(x.codes[rows], x.scale[rows]), weight, bias, exact=True)


def judged(out: Tensor, rows: slice, x: Rows, weight: Rows | Tiles, bias: Tensor, *, gelu: bool = False) -> float:
    """The error of some rows of an output."""
    exact = expected(rows, x, weight, bias)
    return accuracy.relative_error(out[rows], F.gelu(exact, approximate="tanh") if gelu else exact)


def unquantised(shape: Shape, inputs: Inputs) -> dict[str, float]:
    """Error of 8-bit arithmetic itself, on some rows: against float64 without quantisation."""
    rows = slice(0, 256)
    exact = inputs.x[rows].double() @ inputs.w.double().T
    forms: dict[str, tuple[Rows, Rows | Tiles]] = {
        "fp8": inputs.fp8, "int8": inputs.int8, "int8, a checkpoint's tiles": (inputs.int8[0], inputs.tiles)
    }  # fmt: skip
    return {
        name: accuracy.relative_error(expected(rows, x, weight, inputs.bias), exact)
        for name, (x, weight) in forms.items()
    }


def variants(long: bool) -> Iterator[tuple[tuning.Kind, Config]]:
    """Configurations worth a run on Hopper. long: sums that are to be added up in float32 on their way."""
    wide = tuning.GEMM[90, "fp8 long" if long else "fp8"]
    gluon = tuning.GemmHopper(promote=wide.promote)
    configs: tuple[Config, ...] = (
        (wide,)
        if long
        else (replace(wide, stages=3, pieces=1), replace(wide, descriptors="none", stages=3, programs=0))
    )
    # What is written out comes last: a fault of its barriers would hang the card.
    configs += (gluon, replace(gluon, group=16), replace(gluon, stages=3, buffers=4))
    if long:
        configs += (replace(gluon, promote=14), replace(gluon, depth=64, stages=8, promote=2 * gluon.promote))
    for config in configs:
        yield "fp8", config


def label(config: Config) -> str:
    """A configuration by what differs from the plainest."""
    if isinstance(config, tuning.GemmHopper):
        parts = ["gluon", f"{config.stages} stages of {config.depth}"]
    else:
        parts = [
            f"{config.rows}x{config.columns}x{config.depth}", f"{config.warps} warps", f"{config.stages} stages"
        ]  # fmt: skip
    told = ("rows", "columns", "depth", "warps", "stages")
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name not in told:
            parts.append(f"{field.name} {value}")
    return " ".join(parts)


def variant_cases(shape: Shape, inputs: Inputs) -> Iterator[Case]:
    """Every configuration, plain and for ffn.0 with GELU to fp8."""
    plain = (shape.m + shape.n) * shape.k + 2 * shape.m * shape.n
    operands: dict[str, tuple[Rows, Rows | Tiles]] = {
        "fp8": inputs.fp8, "int8": inputs.int8, "tiles": (inputs.int8[0], inputs.tiles)
    }  # fmt: skip
    scale = reach.bound(inputs.fp8[0], inputs.reach)
    for kind, config in variants(gemm.kind_of(inputs.fp8[1]) == "fp8 long"):
        x, weight = operands[kind]

        def run(x: Rows = x, weight: Rows | Tiles = weight, config: Config = config) -> Tensor:
            return gemm.linear(x, weight, inputs.bias, config=config)

        def judge(rows: slice, run: Callable[[], Tensor] = run, x: Rows = x, w: Rows | Tiles = weight) -> float:
            return judged(run(), rows, x, w, inputs.bias)

        yield Case(f"{kind} {label(config)}", run, judge, plain)
        if kind == "fp8" and shape.name.endswith(FFN):

            def hidden(w: Rows = inputs.fp8[1], config: Config = config) -> Rows:
                return gemm.linear_gelu_rows(inputs.fp8[0], w, inputs.bias, scale, config)

            def judge_hidden(rows: slice, hidden: Callable[[], Rows] = hidden) -> float:
                return judged(hidden().float(), rows, *inputs.fp8, inputs.bias, gelu=True)

            yield Case("     GELU to fp8", hidden, judge_hidden, plain - shape.m * shape.n)


def measure(shape: Shape, case: Case, ceilings: Ceilings, repeats: int = 15) -> Row | str:
    """One line; a text where it does not compile, fit or run."""
    flops = 0.0 if case.name.startswith("-") else 2.0 * shape.m * shape.n * shape.k
    try:
        time = seconds(case.run, repeats=repeats, warm=2, queued=True)
        # The last rows too: a tile's tail is where bounds go wrong.
        error = (
            None if case.judge is None else max(case.judge(slice(0, 128)), case.judge(slice(shape.m - 128, None)))
        )
    except Exception as failure:  # a configuration that does not compile or fit is a finding
        return f"{case.name}: {type(failure).__name__}: {' '.join(str(failure).split())[:120]}"
    return Row(case.name, time, Work(flops, case.bytes).floor(ceilings), flops, error)


def fp8_ceiling() -> float:
    """FLOP/s of torch's fp8 product of 8192^3 with one scale a tensor."""
    a, b = (torch.randn(8192, 8192, device="cuda").to(FP8) for _ in range(2))
    one = torch.ones((), device="cuda")

    def run() -> Tensor:
        return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    return 2 * 8192**3 / seconds(run, queued=True)


def report(say: Callable[[str], None], copy: float, asked_variants: bool) -> tuple[bool, list[dict[str, Any]]]:
    """Measure every shape. Returns whether all errors are within LIMIT, and the figures."""
    try:
        top = fp8_ceiling()
    except RuntimeError as failure:  # before 8.9 there is no fp8
        say(f"\n8-bit linear layers: no fp8 here ({' '.join(str(failure).split())[:80]})")
        return True, []
    ceilings = Ceilings(bf16=top, copy=copy)
    say(f"\n8-bit linear layers: measured ceiling of fp8 products {top / 1e12:.0f} TFLOP/s")
    right, data = True, []
    for shape in SHAPES:
        inputs = Inputs.draw(shape)
        say(f"\n{shape.name}: {shape.m} x {shape.n} x {shape.k}")
        errors = unquantised(shape, inputs)
        say("  error of the arithmetic itself: " + ", ".join(f"{name} {e:.1e}" for name, e in errors.items()))
        entry: dict[str, Any] = {"shape": shape.name, "unquantised": errors, "rows": []}
        todo = list(cases(shape, inputs))
        others = asked_variants and not shape.name.endswith(QKV)
        for case in todo + (list(variant_cases(shape, inputs)) if others else []):
            row = measure(shape, case, ceilings, 15 if case in todo else 7)
            say("  " + (row if isinstance(row, str) else row.line))
            entry["rows"].append({"failed": row} if isinstance(row, str) else vars(row))
            if case in todo and "14-bit" not in case.name and "GELU to fp8" not in case.name:
                right &= not isinstance(row, str) and (row.error is None or row.error <= LIMIT)
        data.append(entry)
        del inputs
    return right, data
