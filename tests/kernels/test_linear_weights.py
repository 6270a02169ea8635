"""8-bit linear layers in plain torch: how far the arithmetic itself is from the exact product, and the weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from kernels import switch
from kernels.accuracy import relative_error
from kernels.linear import fp8, reference, weights
from kernels.linear.weights import Tiles
from kernels.quantized import FP8, Rows, quantize_rows
from kernels.reference import int8_linear, quantize_blocks

GOLDEN = Path(__file__).parent.parent / "golden" / "int8_linear.safetensors"
BOUND = {FP8: 4.5e-2, torch.int8: 1.6e-2}
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=str)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@DTYPES
def test_gaussian_linears_stay_within_the_bounds(dtype: torch.dtype) -> None:
    x, w = draw(256, 1536), draw(512, 1536, seed=1) / 1536**0.5
    y = reference.linear(quantize_rows(x, dtype), weights.by_channel(w, dtype), None, dtype=torch.float32)
    assert relative_error(y, x.double() @ w.double().T) <= BOUND[dtype]


def test_an_outlier_channel_costs_fp8_nothing() -> None:
    x, w = draw(256, 1536), draw(512, 1536, seed=1) / 1536**0.5
    x[:, 7] *= 50
    exact = x.double() @ w.double().T
    errors = {
        dtype: relative_error(
            reference.linear(quantize_rows(x, dtype), weights.by_channel(w, dtype), None, exact=True), exact
        )
        for dtype in BOUND
    }
    assert errors[FP8] <= BOUND[FP8]
    assert errors[torch.int8] > BOUND[torch.int8]  # evenly spaced codes: the outlier sets everyone's step


def test_an_outlier_output_has_a_scale_of_its_own() -> None:
    x, w = draw(256, 1536), draw(512, 1536, seed=1) / 1536**0.5
    w[5] *= 50
    exact = x.double() @ w.double().T
    others = torch.arange(512) != 5
    by_channel = reference.linear(quantize_rows(x, torch.int8), weights.by_channel(w, torch.int8), None, exact=True)
    by_tile = reference.linear(quantize_rows(x, torch.int8), Tiles(*quantize_blocks(w)), None, exact=True)
    assert relative_error(by_channel[:, others], exact[:, others]) <= BOUND[torch.int8]
    assert relative_error(by_tile[:, others], exact[:, others]) > 5e-2


def test_the_reference_is_a_linear_layer() -> None:
    x, w, bias = quantize_rows(draw(6, 32)), weights.by_channel(draw(16, 32, seed=1)), draw(16, seed=2)
    y = F.linear(x.float(), w.float(), bias)
    torch.testing.assert_close(reference.linear(x, w, bias, dtype=torch.float32), y)
    hidden = reference.linear_gelu_rows(x, w, bias, reference.reach(w, bias))
    assert relative_error(hidden.float(), F.gelu(y, approximate="tanh")) <= 3e-2
    assert reference.linear(x, w, None).dtype == torch.bfloat16


@pytest.mark.parametrize("width", [1536, 5120])
def test_hidden_rows_by_their_bound_are_as_good_as_by_their_largest_element(width: int) -> None:
    x, w = quantize_rows(draw(128, width)), weights.by_channel(draw(512, width, seed=1) / width**0.5)
    bias = draw(512, seed=2)
    y = F.gelu(reference.linear(x, w, bias, exact=True), approximate="tanh")
    bounded = reference.linear_gelu_rows(x, w, bias, reference.reach(w, bias))
    best = quantize_rows(y.float())
    assert relative_error(bounded.float(), y) <= relative_error(best.float(), y) * 1.02
    assert (bounded.scale >= best.scale).all()  # nothing is cut off


@DTYPES
def test_a_checkpoints_tiles_become_channels(dtype: torch.dtype) -> None:
    golden = load_file(GOLDEN)
    tiles = Tiles(golden["int8_weight"], golden["scale"])
    channels = weights.by_channel(tiles, dtype)
    assert channels.codes.shape == tiles.codes.shape
    assert channels.codes.dtype == dtype
    assert relative_error(channels.float(), tiles.float()) <= (2.8e-2 if dtype == FP8 else 1e-2)


def test_the_golden_int8_layer_is_reproduced_from_its_tiles() -> None:
    golden = load_file(GOLDEN)
    tiles = Tiles(golden["int8_weight"], golden["scale"])
    x = golden["x"].float()
    y = reference.linear(quantize_rows(x, torch.int8), tiles, golden["bias"], dtype=torch.float32)
    theirs = int8_linear(x, tiles.codes, tiles.scale, golden["bias"])
    exact = F.linear(x.double(), tiles.float().double(), golden["bias"].double())
    assert relative_error(y, golden["y"]) <= 8e-2  # the layer has an outlier channel, and theirs are other steps
    assert relative_error(y, exact) <= relative_error(theirs, exact) * 1.7


def test_a_large_weight_is_quantised_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    w = draw(700, 256)
    tiles = Tiles(*quantize_blocks(w))
    whole, whole_tiles = weights.by_channel(w), weights.by_channel(tiles)
    monkeypatch.setattr(weights, "CHUNK", 256)
    for one, other in ((weights.by_channel(w), whole), (weights.by_channel(tiles), whole_tiles)):
        assert torch.equal(one.codes.float(), other.codes.float())
        assert torch.equal(one.scale, other.scale)


def test_stacked_weights_come_apart_without_copies() -> None:
    parts = [weights.by_channel(draw(n, 64, seed=n)) for n in (32, 48)]
    stacked = weights.stack(parts)
    for part, again in zip(parts, weights.split(stacked, [32, 48]), strict=True):
        assert torch.equal(part.codes.float(), again.codes.float())
        assert again.codes.untyped_storage().data_ptr() == stacked.codes.untyped_storage().data_ptr()


def test_torchs_own_product_is_the_references() -> None:
    device = "cuda" if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9) else "cpu"
    if device == "cpu" and torch.__version__ < (2, 13):
        pytest.skip("torch before 2.13 has row-wise fp8 products on cards only, and none is here")
    x, w, bias = (t.to(device) for t in (draw(40, 64), draw(48, 64, seed=1), draw(48, seed=2)))
    x, w = quantize_rows(x), weights.by_channel(w)
    for fast in (True, False):
        y = fp8.scaled_mm(x, w, bias, fast)
        assert y.dtype == torch.bfloat16
        assert relative_error(y, reference.linear(x, w, bias, exact=True)) <= 2.5e-3  # bfloat16 rounds bias and sum
    assert fp8.obstacle(x, w) is None
    assert "bfloat16" in str(fp8.obstacle(x, w, torch.float32))
    assert "16" in str(fp8.obstacle(x, Rows(w.codes[:20], w.scale[:20])))
    assert "int8" in str(fp8.obstacle(quantize_rows(draw(4, 64), torch.int8), w))


def test_a_cpu_computes_the_reference_and_says_why_it_cannot_do_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, w, bias = quantize_rows(draw(20, 32)), weights.by_channel(draw(16, 32, seed=1)), draw(16, seed=2)
    assert torch.equal(switch.linear(x, w, bias), reference.linear(x, w, bias))
    reach = reference.reach(w, bias)
    hidden, expected = switch.linear_gelu_rows(x, w, bias, reach), reference.linear_gelu_rows(x, w, bias, reach)
    assert torch.equal(hidden.codes.float(), expected.codes.float())
    assert switch.operand_dtype(torch.device("cpu")) == FP8
    monkeypatch.setenv(switch.VARIABLE, "fast")
    with pytest.raises(ValueError, match="the device is cpu"):
        switch.linear(x, w, bias)
    with pytest.raises(ValueError, match="must be alike"):
        switch.linear(quantize_rows(draw(20, 32), torch.int8), w, bias)
    with pytest.raises(ValueError, match="multiples of 16"):
        switch.linear(x, Rows(w.codes[:5], w.scale[:5]), None)
    with pytest.raises(ValueError, match="takes 32"):
        switch.linear(quantize_rows(draw(20, 48)), w, bias)


@pytest.mark.parametrize(
    ("capability", "dtype"), [((8, 0), torch.int8), ((8, 6), torch.int8), ((8, 9), FP8), ((9, 0), FP8)]
)
def test_cards_before_8_9_multiply_in_int8(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert switch.operand_dtype(torch.device("cuda")) == dtype
