"""The 8-bit GEMM compiles for every card, fits its shared memory and multiplies in 8 bits: no GPU, no times."""

from pathlib import Path

import pytest
import torch

from kernels.linear import gemm, reach
from kernels.tuning import linear as tuning
from tests.kernels.compiling import SHARED, Compiled, compile_for

# (capability, 8-bit type) -> what its products are called in PTX
PRODUCT = {
    "fp8e4nv": {
        89: "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3", 90: "wgmma.mma_async.sync.aligned.m64n",
        100: "kind::f8f6f4", 120: "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3",
    },
    "i8": {c: "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8" for c in (80, 86, 89, 100, 120)}
    | {90: "wgmma.mma_async.sync.aligned.m64n"},
}  # fmt: skip
HOPPER = {"fp8e4nv": "k32.f32.e4m3.e4m3", "i8": "k32.s32.s8.s8"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def build(
    capability: int, kind: tuning.Kind, config: tuning.Gemm, end: tuning.End = "plain", wide: str = "bf16"
) -> Compiled:
    """wide: the type of a plain output."""
    element = "fp8e4nv" if kind.startswith("fp8") else "i8"
    stored = element if end == "codes" else wide
    types = {name: "*fp32" for name in ("x_scale", "w_scale", "out_scale")} | {"bias": "*bf16"}
    types |= {name: "i32" for name in ("m", "n", "k")}
    if config.descriptors == "host":
        piece = f"{config.rows}, {config.columns // config.pieces}"
        types |= {"x": f"tensordesc<{element}[{config.rows}, {config.depth}]>"}
        types |= {"w": f"tensordesc<{element}[{config.columns}, {config.depth}]>"}
        types |= {"out": f"tensordesc<{stored}[{piece}]>"}
    else:
        types |= {"x": f"*{element}", "w": f"*{element}", "out": f"*{stored}"}
    constants = {
        "BIAS": True, "CODES": end == "codes", "APPROXIMATE": True, "TILES": kind == "tiles",
        "DESCRIPTORS": config.descriptors == "host", "EVEN": True,
        "ROWS": config.rows, "COLUMNS": config.columns, "DEPTH": config.depth, "GROUP": config.group,
        "PIECES": config.pieces, "PROMOTE": config.promote,
        "FLATTEN": config.programs > 0 and config.promote == 0,
    }  # fmt: skip
    return compile_for(capability, gemm.multiply, types, constants, config.warps, config.stages)


@pytest.mark.parametrize(("capability", "kind"), tuning.GEMM)
def test_every_cards_configuration_fits_it_and_multiplies_in_8_bits(capability: int, kind: tuning.Kind) -> None:
    config = tuning.GEMM[capability, kind]
    element = "fp8e4nv" if kind.startswith("fp8") else "i8"
    ends: tuple[tuning.End, ...] = ("plain", "codes") if element == "fp8e4nv" else ("plain",)
    for end in ends:
        built = build(capability, kind, config, end)
        assert 0 < built.shared * max(1, config.programs) <= SHARED[capability], end
        assert PRODUCT[element][capability] in built.ptx
        if capability == 90:
            assert HOPPER[element] in built.ptx
            if element == "fp8e4nv":  # a step is in flight while the next is issued, long sums or not
                assert "wgmma.wait_group.sync.aligned 1" in built.ptx
        # With loads ahead of the products: by the bulk copy engine or asynchronous copies.
        assert ("cp.async.bulk.tensor" if config.descriptors == "host" else "cp.async.c") in built.ptx


@pytest.mark.parametrize(("capability", "kind", "end"), tuning.WAYS)
def test_every_measured_way_of_ours_fits_its_card(capability: int, kind: tuning.Kind, end: tuning.End) -> None:
    way = tuning.WAYS[capability, kind, end]
    if isinstance(way, tuning.Gemm):  # test_linear_gluon.py compiles the other
        built = build(capability, kind, way, end)
        assert 0 < built.shared * max(1, way.programs) <= SHARED[capability]


def test_torchs_product_is_named_where_nothing_follows_it() -> None:
    """For codes it would be passed over without a word."""
    named = [(kind, end) for (_, kind, end), way in tuning.WAYS.items() if isinstance(way, tuning.Torch)]
    assert named
    assert all(end == "plain" and kind in ("fp8", "fp8 long") for kind, end in named)


@pytest.mark.parametrize(
    ("capability", "kind"), [key for key, config in tuning.GEMM.items() if config.descriptors == "host"]
)
def test_a_float32_output_fits(capability: int, kind: tuning.Kind) -> None:
    built = build(capability, kind, tuning.GEMM[capability, kind], wide="fp32")
    assert built.shared <= SHARED[capability]


def test_the_bound_of_the_hidden_rows_compiles_for_every_card() -> None:
    types = {"codes": "*fp8e4nv", "scale": "*fp32", "reach": "*fp32", "out": "*fp32", "m": "i32", "k": "i32"}
    for capability in (89, 90, 100, 120):
        assert compile_for(capability, reach.bound_rows, types, {"ROWS": reach.ROWS, "WIDTH": reach.WIDTH}, 4).cubin


def test_a_card_without_a_measured_way_takes_torchs_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    for capability, fast in (((9, 0), tuning.Torch(fast=True)), ((8, 9), tuning.Torch(fast=True))):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)  # pyright: ignore
        assert tuning.way(card, "fp8", "plain") == fast
        assert isinstance(tuning.way(card, "int8", "plain"), tuning.Gemm)
    assert tuning.way(card, "fp8 long", "codes") == tuning.GEMM[89, "fp8 long"]
    assert tuning.way(card, "fp8 long", "plain") == tuning.Torch(fast=False)
    monkeypatch.setitem(tuning.WAYS, (89, "fp8 long", "plain"), tuning.GEMM[89, "fp8 long"])
    assert tuning.way(card, "fp8 long", "plain") == tuning.GEMM[89, "fp8 long"]


def test_a_card_between_two_takes_the_older_ones_configuration() -> None:
    assert tuning.find(103, "fp8") == tuning.GEMM[100, "fp8"]
    assert tuning.find(87, "int8") == tuning.GEMM[86, "int8"]
    with pytest.raises(ValueError, match="no fp8 products on compute capability 8"):
        tuning.find(86, "fp8")


def test_configurations_of_a_checkpoints_tiles_stay_within_one() -> None:
    configs = [c for (_, kind), c in tuning.GEMM.items() if kind == "tiles"]
    for config in configs:
        assert config.columns <= 128
        assert config.depth <= 128
