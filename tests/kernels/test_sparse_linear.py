"""Sparse-linear attention in Triton: what the reference computes, on every shape, and nothing left unwritten.

On a CUDA card these run on it. Elsewhere `test_interpreted.py` runs this file in Triton's interpreter.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kernels import accuracy, reference, selftest, switch
from kernels.attention import block_map, sparse_linear
from kernels.bench import sparse_linear as bench
from kernels.bench.timing import Ceilings
from kernels.tuning import sparse_linear as tuning

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    reason = "no CUDA card here: test_interpreted.py runs this file in Triton's interpreter"
    pytest.skip(reason, allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
GOLDEN = Path(__file__).parent.parent / "golden" / "sla.safetensors"
# The interpreter computes bfloat16 wrongly: on a CPU the kernel is judged in the other two.
BRAIN = torch.float16 if INTERPRETED else torch.bfloat16
DTYPES = (torch.float16, torch.float32) if INTERPRETED else (torch.bfloat16, torch.float16, torch.float32)
SHAPES_IN = (torch.float32,) if INTERPRETED else DTYPES  # the strictest is enough where every step is slow

Args = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def draw(length: int, heads: int, dim: int, batch: int = 1, dtype: torch.dtype = BRAIN, seed: int = 0) -> Args:
    """q, k, v [b, L, h, d] of unit variance, a layer's proj_l."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    q, k, v = (normal(batch, length, heads, dim).to(dtype) for _ in range(3))
    return q, k, v, normal(dim, dim) / dim**0.5, normal(dim)


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that a kernel is to fill holds NaN, or a block that does not exist, before it does."""
    empty = torch.empty

    def poisoned(*args: object, **options: object) -> Tensor:
        out = empty(*args, **options)  # pyright: ignore
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min)

    monkeypatch.setattr(torch, "empty", poisoned)


def attention(*args: Any) -> Tensor:
    """In the inputs' own arithmetic, whatever this card would take."""
    return sparse_linear.sparse_linear_attention(*args, arithmetic="bf16")


def judge(args: Args, topk: float, tolerance: float | None = None) -> None:
    """The output is the float32 reference's with the same blocks, and the blocks are the reference's."""
    q, k, v, weight, bias = args
    index = block_map.block_index(q, k, topk)
    assert accuracy.worse_blocks(q, k, index, topk)[1] == 0
    out = attention(*args, topk)
    assert out.dtype == q.dtype
    expected = accuracy.sparse_linear_given(q, k, v, index, weight, bias)
    assert accuracy.relative_error(out, expected) <= (tolerance or accuracy.TOLERANCE[q.dtype])


@pytest.mark.parametrize(
    ("length", "heads", "dim", "batch", "topk"),
    [
        (1, 1, 64, 1, 0.1),
        (1, 3, 128, 2, 1.0),
        (63, 3, 64, 2, 0.5),
        (64, 1, 128, 1, 1.0),
        (65, 3, 64, 1, 0.5),
        (127, 1, 128, 2, 1.0),
        (128, 3, 64, 1, 0.1),
        (129, 3, 128, 1, 0.5),
        (129, 1, 64, 2, 1.0),
        (1408, 1, 64, 1, 0.5),
        (1408, 1, 128, 1, 0.1),
        (1650, 1, 64, 1, 0.1),
        (1650, 1, 128, 1, 0.1),
    ],
)
@pytest.mark.parametrize("dtype", SHAPES_IN, ids=str)
def test_it_is_the_reference(
    length: int, heads: int, dim: int, batch: int, topk: float, dtype: torch.dtype
) -> None:
    judge(draw(length, heads, dim, batch, dtype), topk)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_outlier_channel_changes_neither_blocks_nor_accuracy(dtype: torch.dtype) -> None:
    q, k, v, weight, bias = draw(450, 1, 64, dtype=dtype)
    k[..., 3] += 50
    v[..., 5] *= 30
    judge((q, k, v, weight, bias), 0.3)
    q[..., 7] *= 8  # phi(q) becomes nearly one-hot
    judge((q, k, v, weight, bias), 0.3)


def test_an_offset_shared_by_all_keys_does_not_blur_the_block_map() -> None:
    q, k, *_ = draw(1290, 1, 64)
    k[..., 3] += 1000
    index = block_map.block_index(q, k, 0.2)
    assert accuracy.worse_blocks(q, k, index, 0.2)[1] == 0


@pytest.mark.parametrize("layout", ["packed", "heads first", "channels apart"])
def test_strided_inputs_are_read_where_they_are(layout: str) -> None:
    q, k, v, weight, bias = draw(130, 2, 64, batch=2)
    whole = attention(q, k, v, weight, bias, 0.5)
    if layout == "packed":
        q, k, v = torch.stack([q, k, v], dim=2).unbind(2)
    elif layout == "heads first":
        q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
    else:
        q, k, v = (torch.stack([t, t], dim=-1)[..., 0] for t in (q, k, v))
    assert not q.is_contiguous()
    assert torch.equal(attention(q, k, v, weight, bias, 0.5), whole)


@pytest.mark.parametrize("length", [1, 70, 193])
def test_nothing_outside_the_inputs_is_read(length: int) -> None:
    q, k, v, weight, bias = draw(length, 2, 64)

    def amid_nan(t: Tensor) -> Tensor:
        wide = torch.full((1, length + 300, 2, 64), torch.nan, dtype=t.dtype, device=DEVICE)
        wide[:, 150 : 150 + length] = t
        return wide[:, 150 : 150 + length]

    alone = attention(q, k, v, weight, bias, 0.5)
    among = attention(*(amid_nan(t) for t in (q, k, v)), weight, bias, 0.5)
    assert torch.equal(alone, among)


def test_proj_l_may_have_no_bias() -> None:
    q, k, v, weight, _ = draw(130, 2, 64)
    out = attention(q, k, v, weight, None, 0.5)
    expected = accuracy.sparse_linear_given(q, k, v, block_map.block_index(q, k, 0.5), weight, None)
    assert accuracy.relative_error(out, expected) <= accuracy.TOLERANCE[q.dtype]


def test_weights_may_be_16_bit() -> None:
    q, k, v, weight, bias = draw(130, 2, 64)
    judge((q, k, v, weight.to(q.dtype), bias.to(q.dtype)), 0.5)


def test_the_same_inputs_give_the_same_bits() -> None:
    args = draw(2100, 1, 64)  # the linear state is summed in two parts
    first = attention(*args, 0.05)
    assert torch.equal(first, attention(*args, 0.05))


@pytest.mark.parametrize("length", [1, 64, 300])
def test_the_state_summed_in_parts_is_the_whole_sum(length: int) -> None:
    _, k, v, _, _ = draw(length, 2, 64, batch=2, dtype=torch.float32)
    config = replace(tuning.FULL.state, split=64)
    state, norm = sparse_linear.linear_state(k, v, config)
    phi = k.softmax(-1).transpose(1, 2)
    torch.testing.assert_close(state, phi.transpose(2, 3) @ v.transpose(1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm, phi.sum(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [tuning.Attend(64, 64, 4, 2), tuning.Attend(128, 32, 8, 3), tuning.FULL.attend])
def test_tile_sizes_do_not_choose_the_result(config: tuning.Attend, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tuning.Config(config, tuning.FULL.state)
    monkeypatch.setattr(tuning, "of_device", lambda *_: full)
    judge(draw(330, 1, 64), 0.5)


@pytest.mark.parametrize("topk", [0.01, 0.1, 0.5, 0.999, 1.0])
def test_the_list_holds_each_kept_block_once_in_ascending_order(topk: float) -> None:
    q, k, *_ = draw(1290, 1, 64)
    index = block_map.block_index(q, k, topk)
    assert index.dtype == torch.int32
    assert index.shape == (1, 1, 11, max(1, int(topk * 21)))
    assert int(index.min()) >= 0
    assert int(index.max()) < 21
    assert bool((index.diff(dim=-1) > 0).all())


def with_room(score: Tensor) -> Tensor:
    """Scores with what must not be chosen behind each row."""
    blocks = score.shape[-1]
    return torch.nn.functional.pad(score, (0, block_map.room_for(blocks) - blocks), value=torch.nan)


def test_best_blocks_orders_floats_as_floats() -> None:
    inf = float("inf")
    score = torch.tensor([[-1.0, 3.0, -0.0, 0.0, -inf, 2.5, inf, -2.0, 1e-30, -1e-30, 3.0, 1e30]], device=DEVICE)

    def kept(share: float) -> list[int]:
        return block_map.best_blocks(with_room(score[None, None]), 12, share)[0, 0, 0].tolist()

    best_first = [6, 11, 1, 10, 5, 8, 2, 3, 9, 0, 7, 4]  # of equals (1, 10), (2, 3) the first comes first
    for count in range(1, 13):
        assert kept((count + 0.5) / 12) == sorted(best_first[:count])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("blocks", [1, 2, 63, 64, 65, 1182, 2049])
def test_best_blocks_are_those_of_a_full_sort(blocks: int, dtype: torch.dtype) -> None:
    score = torch.randn(1, 2, 3, blocks, generator=torch.Generator().manual_seed(blocks)).to(DEVICE)
    fine = 128 if dtype == torch.float32 else 32  # many equals, and neighbours that differ by a last bit
    score = (((score + 4) * fine).round() / fine).to(dtype)
    found = block_map.best_blocks(with_room(score), blocks, 0.1)
    order = score.sort(dim=-1, descending=True, stable=True).indices
    expected = order[..., : found.shape[-1]].sort(-1).values
    assert torch.equal(found.long(), expected)


def test_the_golden_output_is_reproduced() -> None:
    golden = load_file(GOLDEN, device=DEVICE)
    q, k, v = (golden[name].float() if INTERPRETED else golden[name] for name in "qkv")
    found = accuracy.listed(block_map.block_index(q, k, 0.2), 22)
    assert torch.equal(found, golden["sla.block_map"].bool())
    out = attention(q, k, v, golden["proj_l.weight"], golden["proj_l.bias"], 0.2)
    assert accuracy.relative_error(out, golden["sla.output"]) <= accuracy.BFLOAT16


@pytest.mark.parametrize(("dim", "dtype"), [(48, BRAIN), (256, BRAIN), (64, torch.float64)])
def test_what_it_cannot_take_is_refused_with_words(dim: int, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="head_dim"):
        attention(*draw(64, 1, dim, dtype=dtype), 0.5)


@pytest.mark.parametrize("arithmetic", ["bf16", "8bit"])
def test_keys_of_another_length_are_refused(arithmetic: Any) -> None:
    q, _, _, weight, bias = draw(130, 1, 64)
    _, k, v, _, _ = draw(100, 1, 64)
    with pytest.raises(ValueError, match=r"\(1, 130, 1, 64\), \(1, 100, 1, 64\)"):
        sparse_linear.sparse_linear_attention(q, k, v, weight, bias, 0.5, arithmetic)


def test_the_switch_reaches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    args = draw(130, 2, 64)
    direct = sparse_linear.sparse_linear_attention(*args, 0.5)
    plain = reference.sparse_linear_attention(*args, 0.5)
    assert not torch.equal(direct, plain)
    monkeypatch.setenv(switch.VARIABLE, "fast")
    assert torch.equal(switch.sparse_linear_attention(*args, 0.5), direct)
    monkeypatch.setenv(switch.VARIABLE, "reference")
    assert torch.equal(switch.sparse_linear_attention(*args, 0.5), plain)
    monkeypatch.delenv(switch.VARIABLE)
    by_itself = switch.sparse_linear_attention(*args, 0.5)
    assert torch.equal(by_itself, plain if INTERPRETED else direct)


def test_the_self_test_passes_right_kernels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SHAPES", ((2, 129, 1, 64, 0.5), (1, 400, 1, 64, 0.3)))
    right = selftest.run(DEVICE)
    assert right.ok, right
    assert 0 < float(right.figures["error"]) <= float(right.figures["limit"])

    monkeypatch.setattr(block_map, "block_index", lambda q, k, topk: block_index(-q, k, topk))
    wrong = selftest.run(DEVICE)
    assert not wrong.ok
    assert "would not keep" in wrong.sentence
    monkeypatch.undo()

    monkeypatch.setattr(sparse_linear, "LOG2E", sparse_linear.tl.constexpr(1.0))  # a softmax of base 2
    monkeypatch.setattr(selftest, "SHAPES", ((1, 129, 2, 64, 0.5),))
    wrong = selftest.run(DEVICE)
    assert not wrong.ok
    assert "TURBOFARM_KERNELS=reference" in wrong.next


block_index = block_map.block_index


def test_the_benchmark_times_every_stage_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, and with a clock that runs everything once: its times are nobody's concern here."""

    def once(run: object, **_: object) -> float:
        run()  # pyright: ignore
        return 1.0

    monkeypatch.setattr(bench, "seconds", once)
    shape = bench.Shape("small", 130, 1)
    inputs = bench.Inputs.draw(shape, DEVICE, BRAIN)
    ceilings = Ceilings(bf16=1e12, copy=1e12)
    rows = bench.stages(shape, inputs, ceilings)
    assert [r.stage for r in rows[:4]] == ["module", "block map", "linear state", "attend"]
    assert all(r.floor > 0 for r in rows[:4])
    timed = [row for _, row in bench.variants(inputs, shape, ceilings)]
    hopper = not INTERPRETED and torch.cuda.get_device_capability() == (9, 0)
    assert {stage for stage, _ in bench.variants(inputs, shape, ceilings)} == {
        "attend", "linear state", "8-bit attend", "8-bit moments", "8-bit operands",
        *(["8-bit module"] if hopper else []),
    }  # fmt: skip
    failed = [row for row in timed if not isinstance(row, bench.Row)]
    assert all("OutOfResources" in row for row in failed), failed  # deeper pipelines than a small card holds
