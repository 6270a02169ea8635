"""Every kernel compiles for every card in bfloat16 and fits its shared memory: no GPU needed, nothing is timed."""

from pathlib import Path

import pytest
import torch

from kernels.attention import block_map, sparse_linear
from kernels.tuning import sparse_linear as tuning
from tests.kernels.compiling import SHARED, Compiled, compile_for

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


@pytest.mark.parametrize("capability", SHARED)
def test_the_block_map_compiles_for_every_card(capability: int) -> None:
    types = {name: "*bf16" for name in ("x", "mean", "out")} | strides("x") | {"length": "i32", "heads": "i32"}
    pool = compile_for(capability, block_map.pool_blocks, types, {"SMOOTH": True, "BLOCK": 128, "DIM": 128}, 4)
    types = {"score": "*bf16", "index": "*i32", "blocks": "i32", "keep": "i32"}
    best = compile_for(capability, block_map.keep_best, types, {"WIDTH": 2048}, 4)
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
