"""The transformer with its linear layers in 8 bits: the same model, names and structure, a little less exact."""

import pytest
import torch
from torch import Tensor, nn

from kernels import switch
from kernels.accuracy import FP8 as FP8_LIMIT
from kernels.accuracy import relative_error
from kernels.linear import reference
from kernels.quantized import quantize_rows
from model import loading, memory
from model.demo import variants
from model.pipeline import Pipeline
from model.wan.config import TransformerConfig, preset
from model.wan.linear import Linear8, together
from model.wan.quantize import DTYPES, quantize_linears
from model.wan.transformer import WanTransformer

CONFIG = TransformerConfig(dim=64, ffn_dim=96, heads=2, layers=2, text_dim=16, text_len=4, sla=True)
KINDS = pytest.mark.parametrize("kind", DTYPES)


def small() -> WanTransformer:
    torch.manual_seed(0)
    return WanTransformer(CONFIG, topk=0.5).eval().requires_grad_(False)


def velocity(model: WanTransformer) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    latent, text = torch.randn(2, 16, 2, 8, 8, generator=draw), torch.randn(2, 4, 16, generator=draw)
    with torch.inference_mode():
        return model(latent, torch.tensor([500.0, 20.0]), text)


@KINDS
def test_the_velocity_stays_near(kind: str) -> None:
    model = small()
    exact = velocity(model)
    quantize_linears(model, DTYPES[kind])
    found = velocity(model)
    assert not torch.equal(found, exact)
    assert relative_error(found, exact) <= 2e-2


@KINDS
def test_every_linear_of_the_blocks_is_swapped_but_proj_l(kind: str) -> None:
    model = small()
    names = quantize_linears(model, DTYPES[kind])
    assert len(names) == 2 * (4 + 4 + 2)
    for name, layer in model.named_modules():
        assert isinstance(layer, Linear8) == (name in names)
        if isinstance(layer, Linear8):
            assert layer.weight.dtype == DTYPES[kind]
    left = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert {name for name in left if name.startswith("blocks.")} == {f"blocks.{i}.self_attn.proj_l" for i in (0, 1)}
    assert "patch_embedding" in left


def test_the_names_of_the_weights_stay() -> None:
    model = small()
    before = {name: value.shape for name, value in model.state_dict().items()}
    names = quantize_linears(model, DTYPES["fp8"])
    after = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: shape for name, shape in after.items() if name in before} == before
    assert after.keys() - before.keys() == {f"{name}.scale" for name in names}


def test_layers_that_matter_can_be_kept() -> None:
    model = small()
    names = quantize_linears(model, DTYPES["fp8"], keep=("blocks.0.*", "*.ffn.2"))
    assert names
    assert all(name.startswith("blocks.1.") and not name.endswith("ffn.2") for name in names)
    assert isinstance(model.get_submodule("blocks.0.self_attn.q"), nn.Linear)


def test_no_pattern_of_layers_to_keep_may_match_nothing() -> None:
    with pytest.raises(ValueError, match=r"blocks\.7"):
        quantize_linears(small(), DTYPES["fp8"], keep=("blocks.7.*",))


@KINDS
def test_q_k_and_v_are_one_product(kind: str) -> None:
    model = small()
    quantize_linears(model, DTYPES[kind])
    attention = model.blocks[0].self_attn
    stacked = together(attention.q, attention.k, attention.v)
    assert stacked is not None
    x = torch.randn(2, 5, 64)
    apart = torch.cat([layer(x) for layer in (attention.q, attention.k, attention.v)], dim=-1)
    torch.testing.assert_close(stacked(x), apart)
    assert stacked.weight.untyped_storage().data_ptr() == attention.q.weight.untyped_storage().data_ptr()
    assert together(attention.k, attention.q) is None  # they lie the other way round
    assert together(attention.q, model.blocks[1].self_attn.k) is None
    assert together(attention.q, small().blocks[0].self_attn.k) is None


@pytest.mark.parametrize(
    ("kind", "keep", "outlier", "expected"),
    [("fp8", (), 1, 2), ("fp8", (), 1000, 1), ("fp8", ("blocks.0.ffn.2",), 1, 1), ("int8", (), 1, 0)],
)
def test_hidden_rows_are_met_in_fp8_alone_and_of_rows_alike(
    kind: str, keep: tuple[str, ...], outlier: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    model.blocks[0].ffn[0].weight.data[5] *= outlier
    quantize_linears(model, DTYPES[kind], keep)
    asked: list[object] = []
    compute = switch.linear_gelu_rows

    def spy(*args):  # pyright: ignore
        asked.append(args)
        return compute(*args)

    monkeypatch.setattr(switch, "linear_gelu_rows", spy)
    assert velocity(model).isfinite().all()
    assert len(asked) == expected


@pytest.mark.parametrize(("factor", "bounded"), [(1, True), (150, True), (250, False), (1000, False)])
def test_a_bound_that_one_row_sets_is_no_bound_for_the_others(factor: float, bounded: bool) -> None:
    model = small()
    up = model.blocks[0].ffn[0]
    up.weight.data = torch.randn(96, 5120) / 5120**0.5
    up.weight.data[5] *= factor
    quantize_linears(model, DTYPES["fp8"])
    up = model.blocks[0].ffn[0]
    assert isinstance(up, Linear8)
    assert (up.reach is not None) == bounded
    x, others = quantize_rows(torch.randn(64, 5120)), torch.arange(96) != 5
    exact = nn.functional.gelu(reference.linear(x, up.rows, up.bias, exact=True), approximate="tanh")
    by_bound = reference.linear_gelu_rows(x, up.rows, up.bias, reference.reach(up.rows, up.bias)).float()
    error = relative_error(by_bound[:, others], exact[:, others])
    assert (error <= FP8_LIMIT) == (factor < 1000)


def test_a_feed_forward_can_hand_its_codes_on() -> None:
    model = small()
    quantize_linears(model, DTYPES["fp8"])
    block = model.blocks[0]
    x = torch.randn(2, 5, 64)
    first, last = block.ffn[0], block.ffn[2]
    fused = last(first.gelu_rows(first.quantize(x)))
    assert relative_error(fused, block.ffn(x).flatten(0, 1)) <= 4.5e-2  # where the hidden codes are rounded
    assert "reach" not in " ".join(model.state_dict())


def test_a_change_of_dtype_leaves_codes_and_scales_alone() -> None:
    model = small()
    quantize_linears(model, DTYPES["fp8"])
    layer = model.get_submodule("blocks.0.ffn.0")
    assert isinstance(layer, Linear8)
    codes, scale = layer.weight.clone(), layer.scale.clone()
    model.to(torch.bfloat16)
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(layer.weight.float(), codes.float())
    assert torch.equal(layer.scale, scale)
    assert layer.to("meta").weight.is_meta


def test_the_layers_ask_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    quantize_linears(model, DTYPES["int8"])
    asked: list[torch.Size] = []
    compute = switch.linear

    def spy(x, weight, bias, **options):  # pyright: ignore
        asked.append(weight.codes.shape)
        return compute(x, weight, bias, **options)

    monkeypatch.setattr(switch, "linear", spy)
    velocity(model)
    assert len(asked) == 16  # q, k and v of self-attention are one product
    assert torch.Size((96, 64)) in asked


def test_the_demo_models_can_be_judged_in_8_bits() -> None:
    found = {v.name: v for v in variants.all_variants("cpu", None, linears=("fp8",), keep=("*.ffn.2",))}
    plain, eight = found["demo-t2v"], found["demo-t2v fp8"]
    assert eight.shipped
    assert eight.within == {"demo-t2v": 1.0}
    layers = dict(eight.pipeline().parts.transformer.named_modules())
    assert isinstance(layers["blocks.0.ffn.0"], Linear8)
    assert isinstance(layers["blocks.0.ffn.2"], nn.Linear)
    assert not any(isinstance(layer, Linear8) for layer in plain.pipeline().parts.transformer.modules())


@pytest.mark.parametrize(
    ("name", "device", "capability", "asked", "kernels", "expected"),
    [
        ("wan2.1-t2v-1.3b", "cuda", (9, 0), "", "", "fp8"),
        ("wan2.1-t2v-1.3b", "cuda", (8, 0), "", "", "int8"),
        ("wan2.1-t2v-1.3b", "cuda", (7, 5), "", "", None),  # no kernels for it: bf16 is faster
        ("wan2.1-t2v-1.3b", "cuda", (9, 0), "bf16", "", None),
        ("wan2.1-t2v-1.3b", "cuda", (9, 0), "int8", "", "int8"),
        ("wan2.1-t2v-1.3b", "cuda", (9, 0), "", "reference", None),
        ("wan2.1-t2v-1.3b", "cpu", None, "", "", None),
        ("wan2.1-t2v-1.3b-base", "cuda", (9, 0), "", "", None),
        ("wan2.1-t2v-1.3b-base", "cuda", (9, 0), "fp8", "", "fp8"),
        ("demo-t2v", "cuda", (9, 0), "fp8", "", None),
    ],
)
def test_which_models_compute_in_8_bits(
    name: str, device: str, capability: tuple[int, int] | None, asked: str, kernels: str, expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv(loading.LINEARS, asked)
    monkeypatch.setenv(switch.VARIABLE, kernels)
    assert loading.linear_codes(preset(name), device) == (None if expected is None else DTYPES[expected])
    if device == "cuda" and capability >= switch.OLDEST:  # what is counted before a card is asked
        assert memory.linears_in_8_bits(preset(name)) == (expected is not None)


def test_without_triton_no_layer_is_in_8_bits_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(switch.importlib.util, "find_spec", lambda _: None)
    monkeypatch.delenv(loading.LINEARS, raising=False)
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    assert loading.linear_codes(preset("wan2.1-t2v-1.3b"), "cuda") is None
    monkeypatch.setenv(loading.LINEARS, "fp8")
    assert loading.linear_codes(preset("wan2.1-t2v-1.3b"), "cuda") == DTYPES["fp8"]


@pytest.mark.parametrize(("asked", "capability"), [("fp4", (9, 0)), ("fp8", (8, 0))])
def test_what_a_card_cannot_do_is_said(
    asked: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setenv(loading.LINEARS, asked)
    with pytest.raises(ValueError, match=f"TURBOFARM_LINEARS={asked}: .*say"):
        loading.linear_codes(preset("wan2.1-t2v-1.3b"), "cuda")


def test_layers_are_in_8_bits_once_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "linear_codes", lambda *_: DTYPES["int8"])
    transformer = Pipeline.load(preset("demo-t2v")).parts.transformer
    assert sum(isinstance(layer, Linear8) for layer in transformer.modules()) == 10 * transformer.config.layers
