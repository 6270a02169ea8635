"""The element-wise kernels: what their reference computes, quantised or not, and nothing left unwritten.

On a CUDA card these run on it. Elsewhere `test_interpreted.py` runs this file in Triton's interpreter,
whose float8 casts are wrong: there the codes are left in float32 and cast by torch.
"""

import os

import pytest
import torch
from torch import Tensor

from kernels import accuracy, selftest
from kernels.bench import elementwise as bench
from kernels.elementwise import fused, reference
from kernels.elementwise.reference import Affine, Modulation
from kernels.linear import fast, gemm
from kernels.quantized import FP8, FP8_MAX, Rows
from kernels.tuning import elementwise as tuning

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    reason = "no CUDA card here: test_interpreted.py runs this file in Triton's interpreter"
    pytest.skip(reason, allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter computes bfloat16 wrongly.
BRAIN = torch.float16 if INTERPRETED else torch.bfloat16
DTYPES = (BRAIN, torch.float32)
WIDTHS = (256, 1536, 5120)
CODES = (None, FP8, torch.int8)
EPS = 1e-6


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that a kernel is to fill holds NaN or -128 before it does."""
    empty, empty_like = torch.empty, torch.empty_like

    def fill(out: Tensor) -> Tensor:
        if out.dtype == FP8:
            return out.copy_(torch.full(out.shape, torch.nan).to(FP8))
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min)

    monkeypatch.setattr(torch, "empty", lambda *a, **o: fill(empty(*a, **o)))  # pyright: ignore
    monkeypatch.setattr(torch, "empty_like", lambda *a, **o: fill(empty_like(*a, **o)))  # pyright: ignore


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused.MOST, torch.float32, FP8_MAX)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def inner(codes: torch.dtype | None) -> torch.dtype | None:
    return torch.float32 if INTERPRETED and codes == FP8 else codes


def same(found: Tensor | Rows, expected: Tensor | Rows) -> None:
    """Equal up to the order of a float32 sum: a code may fall to the other side of a rounding, and rarely does."""
    if isinstance(expected, Rows):
        assert isinstance(found, Rows)
        codes = found.codes
        if codes.dtype == torch.float32:
            assert float(codes.abs().max()) <= FP8_MAX * (1 + 1e-6)
            codes = codes.clamp(-FP8_MAX, FP8_MAX).to(FP8)
        assert codes.dtype == expected.codes.dtype
        assert codes.shape == expected.codes.shape
        torch.testing.assert_close(found.scale, expected.scale, rtol=3e-6, atol=0.0)
        unlike = codes.float() != expected.codes.float()
        assert float(unlike.float().mean()) < 1e-3
        step = 1.0 if codes.dtype == torch.int8 else 1 / 8  # of e4m3, at most 2^-3 of the value
        size = (
            torch.ones_like(expected.scale)[:, None] if codes.dtype == torch.int8 else expected.codes.float().abs()
        )
        assert bool(((codes.float() - expected.codes.float()).abs() <= step * size + 2**-9).all())
        return
    assert isinstance(found, Tensor)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert accuracy.relative_error(found, expected) <= {torch.float32: 1e-6}.get(expected.dtype, 2e-4)
    close = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[expected.dtype]  # one rounding
    torch.testing.assert_close(found, expected, rtol=close, atol=close)


def modulation(batch: int, width: int) -> tuple[Modulation, Tensor]:
    """Shift, scale and gate as the model cuts them: slices of one [b, 6, C]."""
    e = draw(batch, 6, width, seed=5) / 2
    return Modulation(e[:, 1], e[:, 0], EPS), e[:, 2]


def affine(width: int, dtype: torch.dtype) -> Affine:
    return Affine(1 + draw(width, dtype=dtype, seed=6) / 4, draw(width, dtype=dtype, seed=7), EPS)


@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["modulation", "affine"])
def test_norm_is_the_reference(kind: str, width: int, codes: torch.dtype | None) -> None:
    for dtype in DTYPES:
        x = draw(2, 5, width, dtype=dtype) * 3 + 1
        how = modulation(2, width)[0] if kind == "modulation" else affine(width, dtype)
        same(fused.norm(x, how, inner(codes)), reference.norm(x, how, codes))


@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_residual_and_norm_are_the_reference(width: int, gated: bool, codes: torch.dtype | None) -> None:
    for dtype in DTYPES:
        x, y = draw(2, 3, width, dtype=dtype) * 3, draw(2, 3, width, dtype=dtype, seed=1)
        how, gate = modulation(2, width)
        gate = gate if gated else None
        before = x.clone()
        summed, normed = fused.gate_residual_norm(x, y, gate, how, inner(codes))
        expected, expected_norm = reference.gate_residual_norm(x, y, gate, how, codes)
        if gated and dtype == torch.float32:  # a card adds a product without rounding it before
            torch.testing.assert_close(summed, expected, rtol=1e-6, atol=1e-6)
        else:  # the model's roundings, so the same bits
            assert torch.equal(summed, expected)
        same(normed, expected_norm)
        assert torch.equal(fused.gate_residual(x, y, gate), summed)
        assert torch.equal(x, before)


@pytest.mark.parametrize(("width", "heads"), [(256, 4), (1536, 12), (5120, 40), (48, 2)])
def test_q_and_k_are_normalised_and_rotated(width: int, heads: int) -> None:
    for dtype in DTYPES:
        packed = draw(2, 7, 3 * width, dtype=dtype) * 2
        q, k, _ = packed.split(width, dim=2)
        table = draw(7, 1, width // heads // 2, seed=2)
        table = torch.stack([table.cos(), table.sin()])
        weights = 1 + draw(width, dtype=dtype, seed=3), 1 + draw(width, dtype=dtype, seed=4)
        expected = reference.rms_norm_rope(q, k, *weights, table, heads, EPS)
        for found, wanted in zip(fused.rms_norm_rope(q, k, *weights, table, heads, EPS), expected, strict=True):
            same(found, wanted)
        apart = fused.rms_norm_rope(q.contiguous(), k.contiguous(), *weights, table, heads, EPS)
        assert torch.equal(apart[0], fused.rms_norm_rope(q, k, *weights, table, heads, EPS)[0])
        same(fused.rms_norm(q, weights[0], EPS), reference.rms_norm(q, weights[0], EPS))


@pytest.mark.parametrize("shape", [(2, 9, 1, 32), (2, 6, 1, 32), (2, 7, 1, 64), (2, 1, 1, 32)])
def test_a_table_of_other_rows_is_refused(shape: tuple[int, ...]) -> None:
    q, weight = draw(1, 7, 256), draw(256, seed=1)
    with pytest.raises(ValueError, match="table of angles"):
        fused.rms_norm_rope(q, q, weight, weight, draw(*shape, seed=2), 4, EPS)


@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("width", [256, 576, 8960, 13824])
def test_gelu_is_the_reference(width: int, codes: torch.dtype | None) -> None:
    for dtype in DTYPES:
        x = draw(2, 3, width, dtype=dtype) * 3
        x[0, 0] *= 0.01
        x[0, 1, :8] = torch.tensor([-40.0, 40.0, -10.0, 0.0, -0.0, -0.7517916, 1e-4, -1e-4])
        same(fused.gelu(x, inner(codes)), reference.gelu(x, codes))


@pytest.mark.parametrize("codes", [FP8, torch.int8], ids=str)
@pytest.mark.parametrize("width", [*WIDTHS, 100])
def test_quantised_rows_are_the_reference(width: int, codes: torch.dtype) -> None:
    for dtype in DTYPES:
        x = draw(5, width, dtype=dtype)
        x[1] = 0
        x[2, 3] = 900  # an outlier takes the whole range
        x[3] *= 1e-5
        found, expected = fused.quantize(x, inner(codes) or codes), reference.quantize(x, codes)
        same(found, expected)
        assert torch.equal(found.scale, expected.scale)  # and then codes differ by the last conversion alone


def test_rows_between_two_codes_fall_to_one_side() -> None:
    """Largest 448 a, others odd multiples of a: half-way between two codes of e4m3, but for a last bit."""
    a = torch.arange(9.0, 250.0, 2, device=DEVICE)[:, None]
    odd = torch.arange(17.0, 33.0, 2, device=DEVICE)
    x = torch.cat([448 * a, *(a * odd * 2**binade for binade in range(-3, 4))], 1)
    found, expected = fused.quantize(x, inner(FP8) or FP8), reference.quantize(x, FP8)
    assert torch.equal(found.codes.float().clamp(-FP8_MAX, FP8_MAX).to(FP8).float(), expected.codes.float())


def test_halves_are_rounded_to_even() -> None:
    x = torch.arange(-127, 128, device=DEVICE).float() / 2
    x = torch.cat([x, torch.full((1,), 127.0, device=DEVICE)])[None]
    assert torch.equal(fused.quantize(x, torch.int8).codes, reference.quantize(x, torch.int8).codes)


@pytest.mark.parametrize("poisoned", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("codes", [FP8, torch.int8], ids=str)
def test_what_is_no_number_stays_none(codes: torch.dtype, poisoned: float) -> None:
    x = draw(3, 1536)
    x[1, 7] = poisoned
    rows = fused.quantize(x, inner(codes) or codes)
    assert not bool(rows.scale[1].isfinite())
    assert bool(rows.scale[0::2].isfinite().all())
    how = modulation(1, 1536)[0]
    rows = fused.norm(x[None], how, inner(codes))
    assert isinstance(rows, Rows)
    assert not bool(rows.scale[1].isfinite())
    plain = fused.norm(x[None], how)
    assert isinstance(plain, Tensor)
    assert bool(plain[0, 1].isnan().all())


@pytest.mark.parametrize("config", bench.row_variants(), ids=str)
def test_configurations_change_speed_alone(config: tuning.Rows) -> None:
    x, y = draw(2, 9, 1536, dtype=BRAIN), draw(2, 9, 1536, dtype=BRAIN, seed=1)
    how, gate = modulation(2, 1536)
    summed, normed = fused.gate_residual_norm(x, y, gate, how, torch.int8, config)
    expected, expected_norm = reference.gate_residual_norm(x, y, gate, how, torch.int8)
    assert torch.equal(summed, expected)
    same(normed, expected_norm)
    same(fused.gelu(x, torch.int8, config), reference.gelu(x, torch.int8))


def test_the_same_inputs_give_the_same_bits() -> None:
    x, y = draw(1, 33, 1536, dtype=BRAIN), draw(1, 33, 1536, dtype=BRAIN, seed=1)
    how, gate = modulation(1, 1536)
    first, second = (fused.gate_residual_norm(x, y, gate, how) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor))


def test_strided_tables_and_inputs_are_read_rightly() -> None:
    x = draw(2, 256, 4, dtype=BRAIN).transpose(1, 2)
    packed = draw(2, 3, 256, seed=2)[:, 1]
    for scale, shift in ((draw(256, 2).T, draw(2, 256, seed=1)), (packed, draw(2, 256, seed=1))):
        how = Modulation(scale, shift, EPS)
        same(fused.norm(x, how), reference.norm(x.contiguous(), how))
    gate = draw(256, 2, seed=3).T
    assert torch.equal(fused.gate_residual(x, x, gate), reference.gate_residual(x, x, gate))


def test_one_table_serves_a_whole_batch() -> None:
    x = draw(3, 5, 256, dtype=BRAIN)
    e = draw(4, 3, 256, seed=5)[:1]  # what lies behind it is another's
    how, gate = Modulation(e[:, 1], e[:, 0], EPS), e[:, 2]
    same(fused.norm(x, how), reference.norm(x, how))
    assert torch.equal(fused.gate_residual(x, x, gate), reference.gate_residual(x, x, gate))
    with pytest.raises(RuntimeError, match="size"):
        fused.gate_residual(x, x, draw(2, 256))


@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize(("length", "keys"), [(1, 1), (70, 8), (130, 72), (33, 200), (300, 128)])
def test_attention_to_few_keys_is_torchs(length: int, keys: int, dim: int) -> None:
    q = draw(2, length, 3, dim)
    k, v = draw(2, keys, 6, dim, seed=1).split(3, dim=2)  # heads of a wider row
    bias = draw(2, keys, seed=2)
    bias[0, keys // 2 + 1 :] = -torch.inf
    bias[1, -1] = 6.0
    found = fused.attend_few(q, k, v, bias)
    assert found.is_contiguous()
    expected = reference.attend_few(q.double(), k.double(), v.double(), bias)
    assert accuracy.relative_error(found, expected) < 1e-5
    half = [t.to(BRAIN) for t in (q, k, v)]
    expected = reference.attend_few(*(t.double() for t in half), bias)
    assert accuracy.relative_error(fused.attend_few(*half, bias), expected) < accuracy.TOLERANCE[BRAIN]


@pytest.mark.parametrize("codes", [None, torch.int8, FP8])
@pytest.mark.parametrize(("length", "keys", "dim"), [(1, 1, 16), (70, 8, 64), (130, 72, 128), (33, 200, 128)])
def test_attention_to_a_prompt_normalises_q_and_writes_rows(
    length: int, keys: int, dim: int, codes: torch.dtype | None
) -> None:
    q = draw(2, length, 3 * dim) * torch.linspace(0.1, 9, length)[None, :, None].to(DEVICE)
    k, v = (draw(2, keys, 3, dim, seed=s) for s in (1, 2))
    v[1] *= 7
    bias = draw(2, keys, seed=3)
    bias[0, keys // 2 + 1 :] = -torch.inf
    weight, reach = draw(3 * dim, seed=4), v.abs().amax((1, 2, 3))
    found = fused.attend_prompt(q, weight, EPS, k, v, bias, reach, inner(codes))
    expected = reference.attend_prompt(q.double(), weight.double(), EPS, k.double(), v.double(), bias)
    assert isinstance(expected, Tensor)
    if codes is None:
        assert isinstance(found, Tensor)
        assert accuracy.relative_error(found, expected) < 1e-5
        return
    assert isinstance(found, Rows)
    assert found.codes.shape == (2 * length, 3 * dim)
    limit = 1e-5 if inner(codes) == torch.float32 else 1.6e-2 if codes == torch.int8 else accuracy.FP8
    assert accuracy.relative_error(found.float(), expected.flatten(0, 1)) < limit
    if codes == FP8:  # known before the row is
        scales = (reach / 448).repeat_interleave(length)
        torch.testing.assert_close(found.scale, scales, rtol=1e-6, atol=0)
        rows = reference.attend_prompt(q, weight, EPS, k, v, bias, reach, codes)
        assert isinstance(rows, Rows)
        torch.testing.assert_close(rows.scale, scales, rtol=1e-6, atol=0)
        assert accuracy.relative_error(rows.float(), expected.flatten(0, 1)) < accuracy.FP8
        same = accuracy.attend_prompt(q, weight, EPS, k, v, bias, reach)
        assert accuracy.relative_error(rows.float(), same) < accuracy.SAME_ARITHMETIC
        if not INTERPRETED:  # which stores no e4m3
            assert accuracy.relative_error(found.float(), same) < accuracy.SAME_ARITHMETIC


def test_keys_of_fewer_batches_or_heads_are_refused() -> None:
    """They would be read past their end."""
    q, bias = draw(2, 20, 128), torch.zeros(2, 8, device=DEVICE)
    k = draw(2, 8, 2, 64)
    for keys, values, biases in ((k[:1], k[:1], bias), (k, k[:, :4], bias), (k, k, bias[:1]), (k, k, bias[:, :4])):
        with pytest.raises(ValueError, match=r"for q \[2, 20, 2, 64\]"):
            fused.attend_prompt(q, draw(128), EPS, keys, values, biases)


def test_a_prompt_that_is_no_number_is_seen() -> None:
    q, k, v = draw(1, 20, 128), draw(1, 8, 2, 64, seed=1), draw(1, 8, 2, 64, seed=2)
    v[0, 3, 0, 5] = torch.nan
    rows = fused.attend_prompt(
        q, draw(128), EPS, k, v, torch.zeros(1, 8, device=DEVICE), v.abs().amax((1, 2, 3)), inner(FP8)
    )
    assert isinstance(rows, Rows)
    assert bool(rows.scale.isnan().all())


def test_keys_of_no_weight_are_no_keys() -> None:
    q, k, v = (draw(1, 40, 2, 64, seed=s) for s in range(3))
    bias = torch.zeros(1, 40, device=DEVICE)
    bias[0, 5:] = -torch.inf
    few = fused.attend_few(q, k[:, :5], v[:, :5], bias[:, :5].contiguous())
    torch.testing.assert_close(fused.attend_few(q, k, v, bias), few, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", bench.few_key_variants(), ids=str)
def test_attention_is_the_same_in_every_configuration(config: tuning.FewKeys) -> None:
    q, k, v = draw(2, 200, 2, 64, dtype=BRAIN), *draw(2, 104, 4, 64, dtype=BRAIN, seed=1).split(2, dim=2)
    bias = draw(2, 104, seed=2)
    expected = reference.attend_few(q.double(), k.double(), v.double(), bias)
    found = fused.attend_few(q, k, v, bias, config)
    assert accuracy.relative_error(found, expected) < accuracy.TOLERANCE[BRAIN]


def test_the_benchmark_times_every_operation_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, and with a clock that runs everything once: its times are nobody's concern here."""

    def once(run: object, **_: object) -> float:
        run()  # pyright: ignore
        return 1.0

    monkeypatch.setattr(bench, "seconds", once)
    monkeypatch.setattr(bench, "CHECKED", 6)
    if INTERPRETED:
        monkeypatch.setattr(bench, "FP8", torch.int8)
    shape = bench.Shape("small", 9, 256, 576, 4, 8, 16)
    inputs = bench.Inputs.draw(shape, DEVICE, BRAIN)
    errors = bench.check(inputs, shape)
    assert all(error <= limit for error, limit in errors.values()), errors
    rows = list(bench.measure(shape, inputs, 1e12))
    assert [r for r in rows if not isinstance(r, bench.Timed)] == []
    assert {r.name for r in rows if isinstance(r, bench.Timed)} == set(errors)
    monkeypatch.setattr(bench, "row_variants", lambda: (tuning.Rows(1), tuning.Rows(2)))
    timed = list(bench.other_configurations(shape, inputs, 1e12))
    failed = [row for row in timed if not isinstance(row, bench.Timed)]
    assert failed == []
    assert len(timed) == 3 * 2 + len(bench.few_key_variants())


def test_the_self_test_judges_a_linear_layer_and_the_element_wise_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SHAPES", ((1, 129, 1, 64, 0.5),))
    kinds: list[str] = []
    kind_of = gemm.kind_of
    monkeypatch.setattr(gemm, "kind_of", lambda weight: kinds.append(kind_of(weight)) or kinds[-1])
    right = selftest.run(DEVICE)
    assert right.ok, right
    assert set(kinds) == ({"fp8", "fp8 long"} if fp8_here() else {"int8"})  # other kernels sum what is long
    assert 0 < float(right.figures["linear error"]) <= accuracy.SAME_ARITHMETIC
    assert float(right.figures["element-wise error"]) <= accuracy.BFLOAT16
    kind = "fp8" if fp8_here() else "int8"
    assert all(name in right.sentence for name in ("sparse-linear", f"a linear layer in {kind}", "element-wise"))

    with monkeypatch.context() as broken:
        multiply = fast.linear
        broken.setattr(fast, "linear", lambda x, w, bias, **how: multiply(x, w, None, **how))
        wrong = selftest.run(DEVICE)
    assert not wrong.ok
    assert wrong.sentence.startswith(f"A linear layer in {kind} is wrong on")
    assert "TURBOFARM_KERNELS=reference" in wrong.next

    for dtype in (FP8, torch.int8):
        monkeypatch.setitem(fused.MOST, dtype, 60.0)  # codes of half the bits
    wrong = selftest.run(DEVICE)
    assert not wrong.ok
    assert wrong.sentence.startswith("Element-wise work is wrong on")


def fp8_here() -> bool:
    return not INTERPRETED and torch.cuda.get_device_capability() >= (8, 9)


@pytest.mark.parametrize("width", [100, 1000, 5120])
def test_lanes_past_the_end_do_not_count(width: int) -> None:
    x = 4 + draw(1, 2, width) / 4  # far from zero, as what lies past the end is
    how, gate = modulation(1, width)
    same(fused.norm(x, how, torch.int8), reference.norm(x, how, torch.int8))
    same(fused.gate_residual_norm(x, x, gate, how)[1], reference.norm(reference.gate_residual(x, x, gate), how))
    same(fused.rms_norm(x, gate[0], EPS), reference.rms_norm(x, gate[0], EPS))
