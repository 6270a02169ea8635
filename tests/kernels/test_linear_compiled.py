"""The 8-bit GEMM compiles for every card, fits its shared memory and multiplies in 8 bits: no GPU, no times."""

from dataclasses import replace
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
EPILOGUES = ("plain", "gelu", "hidden", "beside")
END: dict[tuning.End, str] = {"plain": "plain", "gelu": "gelu", "codes": "hidden", "residual": "beside"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def build(
    capability: int, kind: tuning.Kind, config: tuning.Gemm, epilogue: str = "plain", wide: str = "bf16"
) -> Compiled:
    """wide: the type of residual and output."""
    element = "fp8e4nv" if kind.startswith("fp8") else "i8"
    stored = element if epilogue == "hidden" else wide
    types = {name: "*fp32" for name in ("x_scale", "w_scale", "gate", "out_scale")} | {"bias": "*bf16"}
    types |= {name: "i32" for name in ("m", "n", "k", "length")}
    if config.descriptors == "host":
        piece = f"{config.rows}, {config.columns // config.pieces}"
        types |= {"x": f"tensordesc<{element}[{config.rows}, {config.depth}]>"}
        types |= {"w": f"tensordesc<{element}[{config.columns}, {config.depth}]>"}
        types |= {"residual": f"tensordesc<{wide}[{piece}]>", "out": f"tensordesc<{stored}[{piece}]>"}
    else:
        types |= {"x": f"*{element}", "w": f"*{element}", "residual": f"*{wide}", "out": f"*{stored}"}
    constants = {
        "BIAS": True, "GELU": "approximate" if epilogue in ("gelu", "hidden") else "none",
        "RESIDUAL": epilogue == "beside", "GATE": "one" if epilogue == "beside" else "none",
        "CODES": epilogue == "hidden", "TILES": kind == "tiles", "DESCRIPTORS": config.descriptors, "EVEN": True,
        "ROWS": config.rows, "COLUMNS": config.columns, "DEPTH": config.depth, "GROUP": config.group,
        "PIECES": config.pieces, "PROMOTE": config.promote,
        "FLATTEN": config.programs > 0 and config.promote == 0,
    }  # fmt: skip
    return compile_for(capability, gemm.multiply, types, constants, config.warps, config.stages)


@pytest.mark.parametrize(("capability", "kind"), tuning.GEMM)
def test_every_cards_configuration_fits_it_and_multiplies_in_8_bits(capability: int, kind: tuning.Kind) -> None:
    config = tuning.GEMM[capability, kind]
    element = "fp8e4nv" if kind.startswith("fp8") else "i8"
    for epilogue in EPILOGUES if element == "fp8e4nv" and capability == 90 else ("beside",):
        built = build(capability, kind, config, epilogue)
        assert 0 < built.shared * max(1, config.programs) <= SHARED[capability], epilogue
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
        built = build(capability, kind, way, END[end])
        assert 0 < built.shared * max(1, way.programs) <= SHARED[capability]
    assert end == "plain" or not isinstance(way, tuning.Torch)


@pytest.mark.parametrize(
    ("capability", "kind"), [key for key, config in tuning.GEMM.items() if config.descriptors == "host"]
)
def test_a_float32_residual_fits_beside_a_stage_less(capability: int, kind: tuning.Kind) -> None:
    config = tuning.GEMM[capability, kind]
    assert gemm.stages_of(config, torch.bfloat16) == gemm.stages_of(config, None) == config.stages
    config = replace(config, stages=gemm.stages_of(config, torch.float32))
    assert build(capability, kind, config, "beside", "fp32").shared <= SHARED[capability]


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
    assert tuning.way(card, "fp8 long", "residual") == tuning.GEMM[89, "fp8 long"]
    assert tuning.way(card, "fp8 long", "plain") == tuning.Torch(fast=False)
    monkeypatch.setitem(tuning.WAYS, (89, "fp8 long", "plain"), tuning.GEMM[89, "fp8 long"])
    assert tuning.way(card, "fp8 long", "plain") == tuning.GEMM[89, "fp8 long"]


def test_a_card_between_two_takes_the_older_ones_configuration() -> None:
    assert tuning.find(103, "fp8") == tuning.GEMM[100, "fp8"]
    assert tuning.find(87, "int8") == tuning.GEMM[86, "int8"]
    with pytest.raises(ValueError, match="no fp8 products on compute capability 8"):
        tuning.find(86, "fp8")


def test_descriptors_made_on_the_device_are_for_persistent_programs() -> None:
    with pytest.raises(ValueError, match="persistent"):
        tuning.Gemm(128, 256, 128, 8, 3, descriptors="device")


def test_configurations_of_a_checkpoints_tiles_stay_within_one() -> None:
    configs = [c for (_, kind), c in tuning.GEMM.items() if kind == "tiles"]
    for config in configs:
        assert config.columns <= 128
        assert config.depth <= 128
