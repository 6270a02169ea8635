"""The references themselves: right against independent formulas, on odd sizes too."""

import math

import pytest
import torch

from kernels import reference


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 200])
def test_a_tail_blocks_mean_divides_by_its_real_rows(length: int) -> None:
    x = draw(1, 2, length, 8)
    means = reference.block_mean(x, 64)
    expected = torch.stack([part.mean(dim=2) for part in x.split(64, dim=2)], dim=2)
    torch.testing.assert_close(means, expected)


def test_keeping_every_block_is_dense_attention() -> None:
    q, k, v = (draw(1, 2, 200, 16, seed=i) for i in range(3))
    keep = torch.ones(1, 2, 2, 4, dtype=torch.bool)
    sparse = reference.block_sparse_attention(q, k, v, keep)
    dense = (q @ k.transpose(2, 3) / math.sqrt(16)).softmax(-1) @ v
    torch.testing.assert_close(sparse, dense)


def test_block_map_keeps_the_asked_share_and_at_least_one() -> None:
    q, k = draw(1, 2, 640, 16), draw(1, 2, 640, 16, seed=1)
    assert (reference.block_map(q, k, 0.3).sum(-1) == 3).all()
    assert (reference.block_map(q, k, 0.01).sum(-1) == 1).all()


def test_block_map_does_not_see_an_offset_shared_by_all_keys() -> None:
    q, k = draw(1, 2, 640, 16), draw(1, 2, 640, 16, seed=1)
    shifted = k + 100 * draw(1, 2, 1, 16, seed=2)
    assert torch.equal(reference.block_map(q, k, 0.3), reference.block_map(q, shifted, 0.3))


def test_linear_attention_is_its_quadratic_form() -> None:
    q, k, v = (draw(1, 2, 50, 16, seed=i) for i in range(3))
    weight = q.softmax(-1) @ k.softmax(-1).transpose(2, 3)
    expected = weight @ v / (1e-5 + weight.sum(-1, keepdim=True))
    torch.testing.assert_close(reference.linear_attention(q, k, v), expected)


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (200, 300), (1, 5)])
def test_quantised_blocks_come_back_within_half_a_step(rows: int, columns: int) -> None:
    x = draw(rows, columns)
    codes, scale = reference.quantize_blocks(x)
    assert codes.dtype == torch.int8
    assert codes.shape == x.shape
    assert scale.shape == (-(-rows // 128), -(-columns // 128))
    # +amax itself is code 128, which int8 cuts to 127: one whole step.
    step = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
    error = (reference.dequantize_blocks(codes, scale) - x).abs() / step
    assert (error[codes < 127] <= 0.5 + 1e-3).all()
    assert (error <= 1 + 1e-3).all()


def test_int8_linear_is_near_the_float_linear() -> None:
    x, weight, bias = draw(64, 256), draw(128, 256, seed=1), draw(128, seed=2)
    y = reference.int8_linear(x, *reference.quantize_blocks(weight), bias)
    exact = x @ weight.T + bias
    assert (y - exact).norm() / exact.norm() < 1.6e-2
