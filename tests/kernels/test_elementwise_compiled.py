"""The element-wise kernels compile for every card, read 16 bytes at a time and keep their rows in registers."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton

from kernels.elementwise import activation, few_keys, norm, rope
from kernels.tuning import elementwise as tuning
from tests.kernels.compiling import SHARED, Compiled, compile_for

PRODUCT = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma.mma", 100: "tcgen05.mma", 120: "mma.sync"}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
CODES = {"bf16": "*bf16", "fp8": "*fp8e4nv", "int8": "*i8"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def codes(kind: str) -> dict[str, object]:
    return {"QUANTIZE": kind != "bf16", "MOST": 448.0 if kind == "fp8" else 127.0, "INTEGER": kind == "int8"}


def residual_norm(capability: int, width: int, config: tuning.Rows, kind: str, modulate: bool = True) -> Compiled:
    table = "*fp32" if modulate else "*bf16"
    types = {name: "*bf16" for name in ("x", "y", "summed")}
    types |= {"gate": "*fp32", "scale": table, "shift": table, "out": CODES[kind], "out_scale": "*fp32"}
    types |= {"length": "i32", "gate_batch": "i32", "scale_batch": "i32", "eps": "fp32"}
    fixed = {"RESIDUAL": True, "GATED": modulate, "NORM": True, "MODULATE": modulate, **codes(kind)}
    sizes = {"WIDTH": width, "CHUNK": config.chunk}
    return compile_for(capability, norm.residual_norm, types, fixed | sizes, config.warps)


def rotation(capability: int, width: int, config: tuning.Rows) -> Compiled:
    types = {name: "*bf16" for name in ("q", "k", "q_weight", "k_weight", "q_out", "k_out")}
    types |= {"table": "*fp32", "length": "i32", "eps": "fp32"}
    types |= {name: "i32" for name in ("q_batch", "q_row", "k_batch", "k_row")}
    sizes = {"WIDTH": width, "PAIRS": 32 if width == 256 else 64, "CHUNK": config.chunk}
    fixed = {"BOTH": True, "ROTATE": True} | sizes
    return compile_for(capability, rope.rms_norm_rope, types, fixed, config.warps)


def gelu(capability: int, width: int, config: tuning.Rows, kind: str) -> Compiled:
    types = {"x": "*bf16", "out": CODES[kind], "out_scale": "*fp32"}
    fixed = {"GELU": True, **codes(kind), "WIDTH": width, "CHUNK": config.chunk}
    return compile_for(capability, activation.activate_rows, types, fixed, config.warps)


def wide_reads(ptx: str) -> tuple[int, int]:
    """Reads of 16 bytes, and all reads."""
    return len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)), len(re.findall(r"ld\.global", ptx))


def stack(built: Compiled, folder: Path) -> int:
    """Bytes a thread keeps in local memory: registers that did not suffice."""
    file = folder / "kernel.cubin"
    file.write_bytes(built.cubin)
    said = subprocess.run([CUOBJDUMP, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", said)
    assert found, said
    return int(found[1])


@pytest.mark.parametrize("width", [256, 1536, 5120])
@pytest.mark.parametrize("capability", SHARED)
def test_rows_of_every_model_stay_in_registers(capability: int, width: int, tmp_path: Path) -> None:
    config = tuning.find(width)
    kind = "fp8" if capability >= 89 else "int8"
    kernels = {
        "norm": residual_norm(capability, width, config.rows, kind),
        "affine": residual_norm(capability, width, config.rows, "bf16", modulate=False),
        "rope": rotation(capability, width, config.rope),
        "gelu": gelu(capability, {256: 576, 1536: 8960, 5120: 13_824}[width], config.rows, kind),
    }
    for name, built in kernels.items():
        assert built.shared <= SHARED[capability], name
        wide, reads = wide_reads(built.ptx)
        assert wide == reads > 0, name
        assert stack(built, tmp_path) <= 16, name


@pytest.mark.parametrize("capability", [89, 90, 100, 120])
def test_float8_is_converted_two_at_a_time(capability: int) -> None:
    built = residual_norm(capability, 1536, tuning.find(1536).rows, "fp8")
    assert "cvt.rn.satfinite.e4m3x2" in built.ptx  # by way of float16 on 8.9


@pytest.mark.parametrize("keys", [104, 200])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("capability", SHARED)
def test_attention_to_few_keys_fits_every_card(capability: int, dim: int, keys: int, tmp_path: Path) -> None:
    config = tuning.few_keys(torch.bfloat16, keys)
    codes = capability >= 89
    types = {name: "*bf16" for name in ("q", "k", "v", "weight")} | {"o": "*fp8e4nv" if codes else "*bf16"}
    types |= {name: "*fp32" for name in ("bias", "factor", "reach", "o_scale")} | {"scale": "fp32"}
    types |= {f"{t}_{s}": "i32" for t in "qkv" for s in ("batch", "row")}
    types |= {name: "i32" for name in ("length", "keys", "heads")}
    sizes = {"QUERIES": config.queries, "KEYS": config.keys, "STAGES": config.stages, "DIM": dim}
    sizes |= {"WHOLE": keys <= config.keys, "PRECISION": "tf32", "NORM": True, "CODES": codes, "MOST": 448.0}
    built = compile_for(capability, few_keys.attend_few, types, sizes, config.warps)
    assert 0 < built.shared <= SHARED[capability]
    assert PRODUCT[capability] in built.ptx  # on the tensor cores
    if keys <= config.keys:
        assert stack(built, tmp_path) <= 16
