"""The 8-bit GEMM in Triton: what float64 makes of the same codes, on every shape and format, plain and with GELU.

On a CUDA card these run on it. Elsewhere `test_interpreted.py` runs this file in Triton's interpreter.
"""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kernels import accuracy, switch
from kernels.bench import linear as bench
from kernels.bench.timing import Ceilings
from kernels.linear import fast, gemm, reach, reference, weights
from kernels.linear.weights import Tiles
from kernels.quantized import FP8, Rows, quantize_rows
from kernels.reference import quantize_blocks
from kernels.tuning import linear as tuning

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    reason = "no CUDA card here: test_interpreted.py runs this file in Triton's interpreter"
    pytest.skip(reason, allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter computes bfloat16 wrongly: on a CPU the kernel is judged by what it would round.
OUT, LIMIT = (torch.float32, 1e-6) if INTERPRETED else (torch.bfloat16, bench.LIMIT)
FORMATS = ("fp8", "int8", "tiles")
POINTERS = tuning.Gemm(128, 128, 64, 4, 3)
PERSISTENT = tuning.Gemm(128, 128, 128, 4, 3, programs=1, descriptors="host", pieces=4)
TABLES = [(*key, config) for key, config in tuning.GEMM.items()] + [
    (card, kind, way) for (card, kind, _), way in tuning.WAYS.items() if isinstance(way, tuning.Gemm)
]
FOR_CODES = [way for (_, _, end), way in tuning.WAYS.items() if end == "codes" and isinstance(way, tuning.Gemm)]
needs_fp8 = pytest.mark.skipif(
    not INTERPRETED and torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="fp8 products begin with compute capability 8.9",
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def operands(kind: str, m: int, n: int, k: int) -> tuple[Rows, Rows | Tiles]:
    x, w = normal(m, k), normal(n, k, seed=1) / k**0.5
    if kind == "tiles":
        return quantize_rows(x, torch.int8), Tiles(*quantize_blocks(w))
    dtype = FP8 if kind == "fp8" else torch.int8
    return quantize_rows(x, dtype), weights.by_channel(w, dtype)


def skip_where_impossible(kind: str, config: tuning.Gemm | None = None) -> None:
    if INTERPRETED:
        return
    capability = torch.cuda.get_device_capability()
    if kind == "fp8" and capability < (8, 9):
        pytest.skip("fp8 products begin with compute capability 8.9")
    if config and config.descriptors != "none" and capability < (9, 0):
        pytest.skip("tensor descriptors begin with compute capability 9.0")


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that a kernel is to fill holds NaN before it does."""
    empty = torch.empty

    def poisoned(*args: object, **options: object) -> Tensor:
        out = empty(*args, **options)  # pyright: ignore
        return out.fill_(torch.nan) if out.is_floating_point() and out.element_size() > 1 else out

    monkeypatch.setattr(torch, "empty", poisoned)


def judge(x: Rows, w: Rows | Tiles, bias: Tensor | None, config: tuning.Gemm | None) -> None:
    out = gemm.linear(x, w, bias, dtype=OUT, config=config)
    expected = reference.linear(x, w, bias, exact=True)
    assert out.dtype == OUT
    assert accuracy.relative_error(out, expected) <= LIMIT


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 16, 16), (63, 160, 272), (64, 128, 128), (129, 272, 64), (200, 144, 576), (300, 512, 256)]
)
def test_it_is_the_product(kind: str, m: int, n: int, k: int) -> None:
    skip_where_impossible(kind)
    judge(*operands(kind, m, n, k), normal(n, seed=2), None)


@pytest.mark.parametrize(
    "config",
    [
        POINTERS,
        replace(POINTERS, pieces=2, group=1),
        replace(POINTERS, promote=2),
        replace(POINTERS, programs=1, pieces=4),
        PERSISTENT,
        replace(PERSISTENT, programs=0, pieces=1, depth=64),
        replace(PERSISTENT, promote=2, pieces=2),
        replace(PERSISTENT, promote=1, group=2),
        replace(PERSISTENT, promote=3),
    ],
    ids=bench.label,
)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_way_to_compute_it_gives_it(kind: str, config: tuning.Gemm) -> None:
    skip_where_impossible(kind, config)
    judge(*operands(kind, 300, 272, 640), normal(272, seed=2), config)


@pytest.mark.parametrize(("card", "kind", "config"), TABLES)
def test_every_cards_configuration_gives_the_product(card: int, kind: tuning.Kind, config: tuning.Gemm) -> None:
    if not INTERPRETED and torch.cuda.get_device_capability() != divmod(card, 10):
        pytest.skip("for another card: it may not fit this one")
    k = 3136 if kind == "fp8 long" else 320  # long: a sum of `promote` steps, and one of less
    judge(*operands("fp8" if kind == "fp8 long" else kind, 130, 272, k), normal(272, seed=2), config)


@needs_fp8
@pytest.mark.parametrize("config", [POINTERS, PERSISTENT, *FOR_CODES], ids=bench.label)
def test_hidden_rows_come_in_fp8_by_the_scale_that_was_given(config: tuning.Gemm) -> None:
    skip_where_impossible("fp8", config)
    if config in FOR_CODES and not INTERPRETED and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("for another card: it may not fit this one")
    x, w = operands("fp8", 130, 272, 256)
    assert isinstance(w, Rows)
    bias = normal(272, seed=2)
    expected = reference.linear_gelu_rows(x, w, bias, reference.reach(w, bias))
    scale = reach.bound(x, reference.reach(w, bias))
    assert accuracy.relative_error(scale, expected.scale) <= 1e-6
    found = gemm.linear_gelu_rows(x, w, bias, scale, config)
    assert found.codes.dtype == FP8
    ours, theirs = found.codes.float(), expected.codes.float()
    if INTERPRETED:  # the interpreter loses the carry where rounding up gives a power of two
        power = theirs.frexp().mantissa.abs() == 0.5
        assert int(power.sum()) < 0.3 * power.numel()
        ours[power] = theirs[power]
    # Where a product lies between two codes, its last bit moves it to the other; on a card GELU's is tanh.approx's.
    assert int((ours != theirs).sum()) <= (0.002 if INTERPRETED else 0.01) * ours.numel()
    exact = F.gelu(reference.linear(x, w, bias, exact=True), approximate="tanh") / scale.double()[:, None]
    assert accuracy.relative_error(ours, exact) <= 1.02 * accuracy.relative_error(theirs, exact)


@needs_fp8
def test_no_output_exceeds_the_bound_of_its_row() -> None:
    x = normal(64, 256)
    x[3] *= 1e4
    x[5] = 0
    w = normal(160, 256, seed=1)
    w[7] *= 100
    bias = normal(160, seed=2)
    bias[7] = 5  # the largest, on the channel that the next row goes straight for
    x[9] = w[7]
    codes, weight = quantize_rows(x), weights.by_channel(w)
    reached = reference.reach(weight, bias)
    scale = reach.bound(codes, reached)
    y = reference.linear(codes, weight, bias, exact=True)
    assert (y.abs().amax(1) <= 448 * scale.double() * (1 + 1e-5)).all()
    assert float(y[9, 7] / (448 * scale[9])) > 1 - 1e-5
    assert scale.isfinite().all()
    without = reference.reach(weight, None)
    for some in (reach.bound(codes, without), reference.bound(codes, without)):
        assert float(some[5]) > 0  # nothing is divided by 0


@pytest.mark.parametrize("kind", FORMATS)
def test_an_outlier_channel_costs_the_kernel_nothing(kind: str) -> None:
    skip_where_impossible(kind)
    x, w = normal(96, 256), normal(128, 256, seed=1)
    x[:, 7] *= 50
    w[3] *= 50
    dtype = FP8 if kind == "fp8" else torch.int8
    weight = Tiles(*quantize_blocks(w)) if kind == "tiles" else weights.by_channel(w, dtype)
    judge(quantize_rows(x, dtype), weight, None, None)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_input_gives_the_same_bits(kind: str) -> None:
    skip_where_impossible(kind)
    x, w = operands(kind, 200, 160, 256)
    assert torch.equal(gemm.linear(x, w, None, dtype=OUT), gemm.linear(x, w, None, dtype=OUT))


@needs_fp8
def test_parts_of_a_stacked_weight_give_their_part_of_the_product() -> None:
    parts = [weights.by_channel(normal(64, 128, seed=i)) for i in range(3)]
    x = quantize_rows(normal(70, 128))
    together = gemm.linear(x, weights.stack(parts), None, dtype=OUT)
    apart = torch.cat([gemm.linear(x, part, None, dtype=OUT) for part in parts], dim=1)
    torch.testing.assert_close(together, apart)


def test_int8_hidden_rows_are_refused() -> None:
    x, w = operands("int8", 16, 32, 32)
    assert isinstance(w, Rows)
    with pytest.raises(ValueError, match="own largest element"):
        gemm.linear_gelu_rows(x, w, None, x.scale)


def test_a_configuration_that_spans_several_scales_is_refused() -> None:
    with pytest.raises(ValueError, match="several scales"):
        gemm.linear(*operands("tiles", 16, 32, 32), None, config=replace(POINTERS, columns=256))


@needs_fp8
def test_the_switch_reaches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = operands("fp8", 70, 64, 128)
    assert isinstance(w, Rows)
    monkeypatch.setattr(tuning, "way", lambda device, kind, end: tuning.of_device(device, kind))  # pyright: ignore
    direct, plain = gemm.linear(x, w, None, dtype=OUT), reference.linear(x, w, None, dtype=OUT)
    asked: list[object] = []
    compute = gemm.linear

    def spy(*args: Any, **options: Any) -> Tensor:
        asked.append(args)
        return compute(*args, **options)

    monkeypatch.setattr(gemm, "linear", spy)
    monkeypatch.setenv(switch.VARIABLE, "fast")
    assert torch.equal(switch.linear(x, w, None, dtype=OUT), direct)
    assert len(asked) == 1
    monkeypatch.setenv(switch.VARIABLE, "reference")
    assert torch.equal(switch.linear(x, w, None, dtype=OUT), plain)
    assert len(asked) == 1


@needs_fp8
@pytest.mark.parametrize("way", [tuning.Torch(fast=True), tuning.GemmHopper()], ids=["torch", "gluon"])
def test_what_a_way_cannot_take_is_left_to_the_portable_kernel(
    way: tuning.Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = operands("fp8", 70, 64, 128)
    monkeypatch.setattr(tuning, "way", lambda *_: way)  # pyright: ignore
    found = fast.linear(x, w, None, dtype=torch.float32)
    assert torch.equal(found, gemm.linear(x, w, None, dtype=torch.float32))


@needs_fp8
@pytest.mark.parametrize(("k", "kind"), [(2048, "fp8"), (2064, "fp8 long")])
def test_a_way_is_asked_for_by_what_is_to_be_done(k: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = operands("fp8", 16, 32, k)
    assert isinstance(w, Rows)
    asked: list[tuple[str, str]] = []

    def way(device: torch.device, kind: tuning.Kind, end: tuning.End) -> tuning.Way:
        asked.append((kind, end))
        return tuning.of_device(device, kind)

    monkeypatch.setattr(tuning, "way", way)
    fast.linear(x, w, None, dtype=torch.float32)
    fast.linear_gelu_rows(x, w, None, reference.reach(w, None))
    assert asked == [(kind, "plain"), (kind, "codes")]


def test_the_benchmark_judges_every_case_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, and with a clock that runs everything once: its times are nobody's concern here."""
    skip_where_impossible("fp8", PERSISTENT)

    def once(run: Any, **_: object) -> float:
        run()
        return 1.0

    monkeypatch.setattr(bench, "seconds", once)
    if INTERPRETED:  # torch.Tensor.__getitem__ of bfloat16 outputs: the interpreter would round them wrongly
        monkeypatch.setattr(bench.torch, "bfloat16", torch.float32)
    ceilings = Ceilings(bf16=1e12, copy=1e12)
    for shape in (bench.Shape("o", 130, 128, 128), bench.Shape("ffn.0", 130, 144, 128)):
        inputs = bench.Inputs.draw(shape, DEVICE, OUT)
        errors = bench.unquantised(shape, inputs)
        assert errors["fp8"] <= 4.5e-2
        assert max(errors["int8"], errors["int8, a checkpoint's tiles"]) <= 1.6e-2
        rows = [bench.measure(shape, case, ceilings) for case in bench.cases(shape, inputs)]
        assert not [row for row in rows if isinstance(row, str)]
        assert all(row.floor > 0 for row in rows)  # pyright: ignore
    few = [("fp8", PERSISTENT), ("int8", POINTERS), ("tiles", POINTERS)]
    monkeypatch.setattr(bench, "variants", lambda long: iter(few))  # pyright: ignore
    found = [bench.measure(shape, case, ceilings) for case in bench.variant_cases(shape, inputs)]
    assert len(found) == 4
    assert [row for row in found if isinstance(row, str)] == []
    broken = bench.Case("broken", lambda: 1 / 0)
    assert "ZeroDivisionError" in str(bench.measure(shape, broken, ceilings))
