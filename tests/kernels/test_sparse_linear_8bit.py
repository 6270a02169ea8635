"""8-bit sparse-linear attention in Triton: the arithmetic that it is said to have, on every shape, and its error.

On a CUDA card with e4m3 products these run on it. Elsewhere `test_interpreted.py` runs this file in Triton's
interpreter.
"""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import accuracy, selftest, switch
from kernels.attention import block_map, operands, sparse_8bit, sparse_linear
from kernels.tuning import sparse_linear as tuning

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not (torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)):
    reason = (
        "no CUDA card of compute capability 8.9 here: test_interpreted.py runs this file in Triton's interpreter"
    )
    pytest.skip(reason, allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter computes bfloat16 wrongly: there, float32 stands for it.
BRAIN = torch.float32 if INTERPRETED else torch.bfloat16

Args = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def draw(length: int, heads: int = 1, dim: int = 64, batch: int = 1, dtype: torch.dtype = BRAIN) -> Args:
    """q, k, v [b, L, h, d] of unit variance, k with an offset channel; a layer's proj_l."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    q, k, v = (normal(batch, length, heads, dim).to(dtype) for _ in range(3))
    k[..., 3] += 8
    return q, k, v, normal(dim, dim) / dim**0.5, normal(dim)


def prepared(args: Args, topk: float) -> sparse_linear.Prepared:
    q, k, v, weight, _ = args
    return sparse_linear.prepare_8bit(q, k, v, weight, topk, tuning.of_device_8bit(q.device, q.shape[-1]))


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every buffer that a kernel is to fill holds NaN, or a block that does not exist, before it does."""
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        out = empty(*args, **options)
        if out.dtype == torch.float8_e4m3fn:
            out.view(torch.uint8).fill_(0x7F)
            return out
        return out.fill_(torch.nan if out.is_floating_point() else torch.iinfo(out.dtype).min)

    monkeypatch.setattr(torch, "empty", poisoned)


def judge(args: Args, topk: float, limit: float = accuracy.FP8) -> Tensor:
    """The blocks are the reference's; the output is the emulation's and, more loosely, that of float32."""
    q, k, v, weight, bias = args
    ready = prepared(args, topk)
    index = ready.index
    assert accuracy.worse_blocks(q, k, index, topk)[1] == 0
    out = sparse_linear.sparse_linear_attention(*args, topk, "8bit")
    assert out.dtype == q.dtype
    same = accuracy.sparse_linear_8bit(q, k, v, index, weight, bias)
    # In float32, so that it is the arithmetic that is judged: rounding an output to bfloat16 alone costs 1.7e-3.
    config = tuning.of_device_8bit(q.device, q.shape[-1]).attend
    unrounded = sparse_linear.attend_8bit(q, ready, bias, config, torch.float32)
    assert torch.equal(unrounded.to(out.dtype), out)
    assert accuracy.relative_error(unrounded, same) <= accuracy.SAME_ARITHMETIC
    exact = accuracy.sparse_linear_given(q, k, v, index, weight, bias)
    assert accuracy.relative_error(out, exact) <= limit
    return out


@pytest.mark.parametrize(
    ("length", "heads", "dim", "batch", "topk"),
    [
        (1, 1, 128, 1, 0.1),
        (1, 3, 64, 2, 1.0),
        (63, 3, 64, 2, 0.5),
        (64, 1, 128, 1, 1.0),
        (65, 1, 128, 2, 0.5),
        (65, 3, 64, 1, 1.0),
        (129, 1, 128, 1, 1.0),
        (256, 1, 64, 1, 1.0),
        (449, 1, 64, 2, 0.6),
        (1650, 1, 128, 1, 0.1),
        (1650, 1, 64, 1, 0.2),
    ],
)
def test_it_is_its_emulation_and_near_float32(length: int, heads: int, dim: int, batch: int, topk: float) -> None:
    judge(draw(length, heads, dim, batch), topk)


def test_the_sparse_branch_alone_is_near_float32() -> None:
    q, k, v, weight, _ = draw(700, 1, 128)
    judge((q, k, v, weight * 0, torch.zeros_like(weight[0])), 0.5)  # nothing beside it hides its error


@pytest.mark.parametrize("channel", [3, 40])
def test_outlier_channels_cost_no_more_than_fp8_may(channel: int) -> None:
    q, k, v, weight, bias = draw(450, 1, 128)
    k[..., channel] += 50
    v[..., 5] *= 30
    judge((q, k, v, weight, bias), 0.3)
    q[..., 7] *= 8
    judge((q, k, v, weight, bias), 0.3)


def test_values_half_way_between_two_codes_fall_to_the_emulations() -> None:
    q, k, v, weight, bias = draw(450, 1, 128)
    odd = 17 + 2 * (torch.arange(v.numel(), device=DEVICE) * 5 % 8).view_as(v)
    v = (odd * 3 / 64).to(v.dtype) * v.sign()
    v[:, 0] = 21  # so 3/64 is the scale: float32 has neither it as 21 / 448 nor its inverse
    judge((q, k, v, weight * 0, bias * 0), 0.3, limit=0.06)  # no value could lie further from its code


def test_zeros_and_tiny_values_are_no_trap() -> None:
    q, k, v, weight, bias = draw(130)
    out = judge((q * 0, k * 0, v, weight, bias), 1.0)
    assert bool(out.isfinite().all())
    out = sparse_linear.sparse_linear_attention(q * 1e-20, k * 1e-20, v * 0, weight, bias, 0.5, "8bit")
    torch.testing.assert_close(out, bias.to(out.dtype).expand_as(out))


def test_scores_far_apart_do_not_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:  # which rounds a product before it adds: the trick needs both in one
        config = replace(tuning.INTERPRETED, attend=tuning.Attend8(64, 128, 4, 5, magic=False))
        monkeypatch.setattr(tuning, "INTERPRETED", config)
    q, k, v, weight, bias = draw(450)
    out = judge((q * 8, k * 8, v * 1000, weight, bias), 0.5, limit=torch.inf)  # far beyond 8 bits of a score
    assert bool(out.isfinite().all())


@pytest.mark.parametrize("layout", ["packed", "heads first", "channels apart"])
def test_strided_inputs_are_read_where_they_are(layout: str) -> None:
    q, k, v, weight, bias = draw(130, 2, 64, 2)
    whole = sparse_linear.sparse_linear_attention(q, k, v, weight, bias, 0.5, "8bit")
    if layout == "packed":
        q, k, v = torch.stack([q, k, v], dim=2).unbind(2)
    elif layout == "heads first":
        q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
    else:
        q, k, v = (torch.stack([t, t], dim=-1)[..., 0] for t in (q, k, v))
    assert not q.is_contiguous()
    assert torch.equal(sparse_linear.sparse_linear_attention(q, k, v, weight, bias, 0.5, "8bit"), whole)


@pytest.mark.parametrize("length", [1, 70, 193])
def test_nothing_outside_the_inputs_is_read(length: int) -> None:
    q, k, v, weight, bias = draw(length, 2)

    def amid_nan(t: Tensor) -> Tensor:
        wide = torch.full((1, length + 300, 2, 64), torch.nan, dtype=t.dtype, device=DEVICE)
        wide[:, 150 : 150 + length] = t
        return wide[:, 150 : 150 + length]

    alone = sparse_linear.sparse_linear_attention(q, k, v, weight, bias, 0.5, "8bit")
    q, k, v = (amid_nan(t) for t in (q, k, v))
    among = sparse_linear.sparse_linear_attention(q, k, v, weight, bias, 0.5, "8bit")
    assert torch.equal(alone, among)


def test_codes_are_padded_with_zeros() -> None:
    ready = prepared(draw(70, 2), 0.5).operands
    assert ready.q.shape == (1, 2, 128, 64)
    assert ready.v.shape == (1, 2, 2, 64, 64)
    assert not ready.q[:, :, 70:].any()
    assert not ready.k[:, :, 70:].any()
    places = torch.tensor(
        [p // 16 * 16 + p // 2 % 2 * 8 + p // 4 % 4 * 2 + p % 2 for p in range(64)], device=DEVICE
    )
    assert sorted(places.tolist()) == list(range(64))
    assert not ready.v[:, :, 1].float()[..., places >= 6].any()
    assert ready.v[:, :, 1].float()[..., places < 6].any()


def test_moments_are_those_of_all_keys() -> None:
    _, k, v, weight, _ = draw(300, 2, 64, 2, torch.float32)
    found = operands.moments(k, v, weight, tuning.Survey(64, 8, 2, split=128))  # the sums are in three parts
    phi = k.softmax(-1).transpose(1, 2)
    state = phi.transpose(2, 3) @ v.transpose(1, 2)
    torch.testing.assert_close(found.folded, state @ weight.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.norm, phi.sum(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.mean, k.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.v_scale, v.abs().amax(1) / 448)


def test_block_means_are_the_block_maps() -> None:
    args = draw(1290)
    q, k = args[:2]
    ready = prepared(args, 0.2).operands
    torch.testing.assert_close(ready.pooled_q, block_map.pooled(q, None, 128))
    found, expected = (t[:, :, :21] for t in (ready.pooled_k, block_map.pooled(k, k.mean(1), 64)))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_steps_and_warps_do_not_choose_the_result() -> None:
    args = draw(450, 1, 64)
    ready = prepared(args, 0.6)
    base = tuning.Attend8(128, 128, 8, 5)

    def attended(config: tuning.Attend8) -> Tensor:
        return sparse_8bit.sparse_attention_8bit(
            args[0], ready.operands, ready.moments, ready.index, args[4], config
        )

    wide = attended(base)
    for other in (
        replace(base, keys=64),
        replace(base, queries=64, warps=4),
        replace(base, magic=False),
    ):
        assert accuracy.relative_error(attended(other), wide) <= accuracy.SAME_ARITHMETIC


def test_the_same_inputs_give_the_same_bits() -> None:
    args = draw(2100)  # the linear state is summed in two parts
    first = sparse_linear.sparse_linear_attention(*args, 0.05, "8bit")
    assert torch.equal(first, sparse_linear.sparse_linear_attention(*args, 0.05, "8bit"))


def test_the_switch_passes_the_arithmetic_on(monkeypatch: pytest.MonkeyPatch) -> None:
    args = draw(130)
    monkeypatch.setenv(switch.VARIABLE, "fast")
    eight = switch.sparse_linear_attention(*args, 0.5, "8bit")
    assert torch.equal(eight, sparse_linear.sparse_linear_attention(*args, 0.5, "8bit"))
    assert not torch.equal(eight, switch.sparse_linear_attention(*args, 0.5, "bf16"))


def test_the_self_test_judges_both_arithmetics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SHAPES", ((1, 400, 1, 64, 0.3),))
    right = selftest.run(DEVICE)
    assert right.ok, right
    assert 0 < float(right.figures["8-bit error"]) <= accuracy.SAME_ARITHMETIC

    def doubled(*given: Any) -> operands.Operands:
        ready = operands.operands(*given)
        return replace(ready, k_scale=ready.k_scale * 2)

    monkeypatch.setattr(sparse_linear, "operands", doubled)
    wrong = selftest.run(DEVICE)
    assert not wrong.ok
    assert "8 bits" in wrong.sentence


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        (80, torch.bfloat16, "bf16"),
        (86, torch.float16, "bf16"),
        (89, torch.bfloat16, "8bit"),
        (90, torch.bfloat16, "8bit"),
        (90, torch.float32, "bf16"),
    ],
)
def test_the_card_chooses_where_nobody_says(
    capability: int, dtype: torch.dtype, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: divmod(capability, 10))
    monkeypatch.setattr(tuning, "FASTER_IN_8_BITS", frozenset({89, 90}))
    device = torch.device("cuda")
    assert tuning.faster(device, dtype) == expected
    assert tuning.has_8bit(device) == (capability >= 89)
    with pytest.raises(ValueError, match=r"16-bit inputs, got torch\.float32"):
        tuning.of_device_8bit(device, 64, torch.float32)
    if capability < 89:
        with pytest.raises(ValueError, match="no 8-bit attention for compute capability 8"):
            tuning.of_device_8bit(device, 64)
