"""Every kernel compiles for every card in bfloat16 and fits its shared memory: no GPU needed, nothing is timed."""

from pathlib import Path

import pytest
import torch

from kernels.attention import block_map, operands, sparse_8bit, sparse_linear
from kernels.tuning import sparse_linear as tuning
from tests.kernels.compiling import SHARED, Compiled, compile_for

EIGHT = (89, 90, 100, 120)
# What a card's tensor cores are called in PTX.
PRODUCT = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma.mma", 100: "tcgen05.mma", 120: "mma.sync"}
STRIDES = ("batch", "row", "head")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def strides(tensors: str) -> dict[str, str]:
    return {f"{tensor}_{name}": "i32" for tensor in tensors for name in STRIDES}


def attend(capability: int, dim: int, config: tuning.Attend, element: str, precision: str) -> Compiled:
    types = {name: f"*{element}" for name in "qkvo"} | strides("qkv")
    types |= {"index": "*i32"} | {name: "*fp32" for name in ("state", "norm", "bias")} | {"scale": "fp32"}
    types |= {name: "i32" for name in ("q_length", "k_length", "heads", "keep")}
    sizes = {"QUERIES": config.queries, "KEYS": config.keys, "STAGES": config.stages, "DIM": dim}
    fixed = {"BIAS": True, "PRECISION": precision, "Q_BLOCK": 128, "K_BLOCK": 64}
    return compile_for(capability, sparse_linear.attend, types, sizes | fixed, config.warps)


def state(capability: int, dim: int, config: tuning.State, element: str, precision: str) -> Compiled:
    types = {name: f"*{element}" for name in "kv"} | strides("kv")
    types |= {"state": "*fp32", "norm": "*fp32", "length": "i32", "heads": "i32"}
    sizes = {"SPLIT": config.split, "KEYS": config.keys, "STAGES": config.stages, "DIM": dim}
    return compile_for(
        capability, sparse_linear.accumulate_state, types, sizes | {"PRECISION": precision}, config.warps
    )


@pytest.mark.parametrize("dim", sparse_linear.HEAD_DIMS)
@pytest.mark.parametrize("capability", SHARED)
def test_attention_fits_every_card(capability: int, dim: int) -> None:
    config = tuning.find(capability, dim, torch.bfloat16)
    for built in (
        attend(capability, dim, config.attend, "bf16", "tf32"),
        state(capability, dim, config.state, "bf16", "tf32"),
    ):
        assert 0 < built.shared <= SHARED[capability]
        assert PRODUCT[capability] in built.ptx  # on the tensor cores
        assert "cp.async.c" in built.ptx  # with loads ahead of the products


def attend_8bit(capability: int, dim: int, config: tuning.Attend8) -> Compiled:
    types = {"q": "*bf16", "o": "*bf16", "folded": "*bf16", "bias": "*bf16", "index": "*i32"} | strides("q")
    types |= {"q_codes": "*i8", "k_codes": "*i8", "v_codes": "*fp8e4nv"}
    types |= {name: "*fp32" for name in ("q_scale", "k_scale", "v_scale", "norm")}
    types |= {name: "i32" for name in ("length", "heads", "keep")}
    fixed = {"BIAS": True, "STAND_IN": False, "Q_BLOCK": 128, "K_BLOCK": 64, "DIM": dim}
    sizes = {"QUERIES": config.queries, "KEYS": config.keys, "STAGES": config.stages}
    sizes |= {"MAGIC": config.magic}
    return compile_for(capability, sparse_8bit.attend_8bit, types, fixed | sizes, config.warps)


def prepare_8bit(capability: int, dim: int, config: tuning.Config8) -> dict[str, Compiled]:
    sums = {name: "*fp32" for name in ("state", "norm", "k_sum", "v_peak")} | {"length": "i32"}
    types = sums | {"k": "*bf16", "v": "*bf16", "heads": "i32", "split": "i32"} | strides("kv")
    sizes = {"KEYS": config.survey.keys, "STAGES": config.survey.stages, "DIM": dim}
    survey = compile_for(capability, operands.survey_keys, types, sizes, config.survey.warps)
    types = sums | {name: "*bf16" for name in ("weight", "folded", "mean")}
    types |= {"whole_norm": "*fp32", "v_scale": "*fp32", "parts": "i32"}
    fold = compile_for(capability, operands.fold_parts, types, {"FP8_MAX": 448.0, "DIM": dim}, 4)
    types = {name: "*bf16" for name in ("q", "k", "v", "mean", "pooled_q", "pooled_k")} | strides("qkv")
    types |= {name: "*fp32" for name in ("v_scale", "q_scale", "k_scale")} | {"fold": "fp32"}
    types |= {
        "q_codes": "*i8",
        "k_codes": "*i8",
        "v_codes": "*i32",
        "length": "i32",
        "heads": "i32",
        "pooled_rows": "i32",
    }
    fixed = {"STAND_IN": False, "Q_BLOCK": 128, "K_BLOCK": 64, "DIM": dim}
    quantize = compile_for(capability, operands.quantize_blocks, types, fixed, config.quantize.warps)
    return {"survey": survey, "fold": fold, "quantize": quantize}


@pytest.mark.parametrize("dim", sparse_linear.HEAD_DIMS)
@pytest.mark.parametrize("capability", EIGHT)
def test_8_bit_attention_fits_every_card_that_has_it(capability: int, dim: int) -> None:
    config = tuning.find_8bit(capability, dim)
    portable = config.attend if isinstance(config.attend, tuning.Attend8) else tuning.INTERPRETED.attend
    assert isinstance(portable, tuning.Attend8)  # test_sparse_gluon.py compiles the other
    built = attend_8bit(capability, dim, portable)
    assert 0 < built.shared <= SHARED[capability]
    assert "s32.s8.s8" in built.ptx or "kind::i8" in built.ptx  # int8 scores
    assert "e4m3.e4m3" in built.ptx or "kind::f8f6f4" in built.ptx  # e4m3 values
    assert PRODUCT[capability] in built.ptx
    assert "cp.async.c" in built.ptx  # with loads ahead of the products
    parts = prepare_8bit(capability, dim, config)
    assert max(part.shared for part in parts.values()) <= SHARED[capability]
    assert PRODUCT[capability] in parts["survey"].ptx
    assert "v4" in parts["quantize"].ptx  # 16 bytes an access


@pytest.mark.parametrize("dim", sparse_linear.HEAD_DIMS)
def test_weights_stay_in_registers_between_the_products_on_hopper(dim: int) -> None:
    """The order of the values makes an accumulator an operand: not a word of the weights is moved."""
    built = attend_8bit(90, dim, tuning.Attend8(64, 128, 4, 5))
    products = [place for place in built.ptx.splitlines() if "wgmma.mma_async" in place or "stmatrix" in place]
    kinds = ["int8" if "s8.s8" in line else "e4m3" if "e4m3" in line else "other" for line in products]
    loop = kinds[: kinds.index("e4m3") + 1]
    assert "other" not in loop


@pytest.mark.parametrize("capability", [80, 86])
def test_cards_without_e4m3_have_no_8_bit_attention(capability: int) -> None:
    with pytest.raises(ValueError, match="no 8-bit attention"):
        tuning.find_8bit(capability, 128)


@pytest.mark.parametrize("capability", SHARED)
def test_the_block_map_compiles_for_every_card(capability: int) -> None:
    types = {name: "*bf16" for name in ("x", "mean", "out")} | strides("x")
    types |= {name: "i32" for name in ("length", "heads", "room")}
    pool = compile_for(capability, block_map.pool_blocks, types, {"SMOOTH": True, "BLOCK": 128, "DIM": 128}, 4)
    types = {"score": "*bf16", "index": "*i32", "blocks": "i32", "stride": "i32", "keep": "i32"}
    best = compile_for(capability, block_map.keep_best, types, {"WIDTH": 2048, "BITS": 16}, 4)
    assert pool.cubin
    assert best.cubin
    assert max(pool.shared, best.shared) <= SHARED[capability]


@pytest.mark.parametrize("dim", sparse_linear.HEAD_DIMS)
def test_float32_fits_the_smallest_card(dim: int) -> None:
    config = tuning.find(86, dim, torch.float32)
    assert 0 < attend(86, dim, config.attend, "fp32", "tf32x3").shared <= SHARED[86]
    assert 0 < state(86, dim, config.state, "fp32", "tf32x3").shared <= SHARED[86]


def test_a_card_between_two_takes_the_older_ones_configuration() -> None:
    assert tuning.find(103, 128, torch.bfloat16) == tuning.HALF[100, 128]
    assert tuning.find(121, 64, torch.float16) == tuning.HALF[120, 64]
    with pytest.raises(ValueError, match=r"7\.5"):
        tuning.find(75, 128, torch.bfloat16)


def test_every_configuration_divides_the_blocks() -> None:
    for config in (*tuning.HALF.values(), tuning.FULL):
        assert 128 % config.attend.queries == 0
        assert 64 % config.attend.keys == 0
        assert config.state.split % config.state.keys == 0
    assert {c for c, _ in tuning.HALF} == set(SHARED)


@pytest.mark.parametrize(
    ("length", "heads"), [(1, 1), (64, 3), (2100, 1), (32_760, 12), (75_600, 40), (75_600, 80)]
)
def test_a_surveys_parts_cover_the_keys_and_end_together(length: int, heads: int) -> None:
    split = tuning.split_of(length, heads)
    parts = -(-length // split)
    assert split % 64 == 0
    assert split * (parts - 1) < length
    assert split >= min(length, 1024)  # a part costs 64 KiB
    if heads >= 12:
        waves = -(-parts * heads // tuning.PROGRAMS)
        assert parts * heads / (waves * tuning.PROGRAMS) > 0.95
