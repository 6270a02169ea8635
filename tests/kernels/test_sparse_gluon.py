"""The 8-bit sparse pass written out for Hopper: what it compiles to, and on such a card what it computes."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from kernels import accuracy
from kernels.attention import sparse_gluon, sparse_linear
from kernels.tuning import sparse_linear as tuning
from tests.kernels.compiling import SHARED

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


def compiled(dim: int, config: tuning.AttendHopper) -> Any:
    kernel: Any = sparse_gluon.attend_gluon
    q, k, v = (gl.NVMMASharedLayout(min(128, w), bits, 2) for w, bits in ((2 * dim, 16), (dim, 8), (64, 8)))
    types = {name: "*bf16" for name in ("bias", "o")} | {"index": "*i32"}
    types |= {name: "*fp32" for name in ("q_scale", "k_scale", "v_scale", "norm")}
    types |= {"q": f"tensordesc<bf16[64, {dim}],{q!r}>", "folded": f"tensordesc<bf16[{dim}, {dim}],{q!r}>"}
    types |= {name: f"tensordesc<i8[64, {dim}],{k!r}>" for name in ("q_codes", "k")}
    types |= {"v": f"tensordesc<fp8e4nv[{dim}, 64],{v!r}>"}
    types |= {name: "i32" for name in ("length", "heads", "keep", "tiles")}
    constants = {"BIAS": True, "STAGES": config.stages, "REGISTERS": config.registers, "DIM": dim}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in types if types[name].startswith("*")
    }
    source = GluonASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 4})


@pytest.mark.parametrize("dim", sparse_linear.HEAD_DIMS)
def test_it_multiplies_in_8_bits_from_registers(dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    built = compiled(dim, tuning.AttendHopper())
    assert built.metadata.shared <= SHARED[90]
    ptx: str = built.asm["ptx"]
    for instruction in ("m64n64k32.s32.s8.s8", f"m64n{dim}k32.f32.e4m3.e4m3", f"m64n{dim}k16.f32.bf16.bf16"):
        assert instruction in ptx
    assert "cp.async.bulk.tensor" in ptx
    assert "setmaxnreg" in ptx
    assert not serialized(ptx)


def serialized(ptx: str) -> bool:
    """Whether the assembler makes every tensor-core product wait for the one before.

    It does so, and only says so (C7510 and the like), where it cannot tell when their registers are read.
    """
    ptxas = triton.knobs.nvidia.ptxas.path
    command = [ptxas, "-v", "--gpu-name", "sm_90a", "-o", "/dev/null", "-"]
    said = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True)
    return "serialized" in said.stdout + said.stderr


@pytest.mark.parametrize("first", [0, 1, 8])
@pytest.mark.parametrize("batch", [1, 2])
def test_queries_are_rows_as_a_descriptor_takes_them(batch: int, first: int) -> None:
    """Where they lie if that can be read, as a slice of a packed product; copied if they begin off 16 bytes."""
    packed = torch.randn(batch, 70, 3 * 128, dtype=torch.bfloat16)
    alone = torch.randn(batch * 70 * 128 + 8, dtype=torch.bfloat16)[first:][: batch * 70 * 128]
    turned = torch.randn(batch, 2, 70, 64, dtype=torch.bfloat16).transpose(1, 2)
    for q, kept in (
        (packed[..., first : first + 128].unflatten(2, (2, 64)), first != 1),
        (alone.view(batch, 70, 2, 64), first != 1),
        (turned, False),
    ):
        rows = sparse_gluon._matrix(q)  # pyright: ignore[reportPrivateUsage]
        assert torch.equal(rows, q.reshape(batch * 70, 128))
        assert rows.data_ptr() % 16 == rows.stride(0) * 2 % 16 == 0
        assert (rows.data_ptr() == q.data_ptr()) == kept


@pytest.mark.skipif(not HOPPER, reason="needs a card of compute capability 9.0")
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("length", "heads", "dim", "batch", "topk"),
    [
        (1, 1, 128, 1, 0.1),
        (65, 3, 64, 2, 1.0),
        (129, 1, 128, 1, 1.0),  # 1, 2, 3, 2, 13 and 20 blocks: the ring turns, with and without a single last block
        (1650, 3, 128, 2, 0.1),
        (1650, 2, 64, 1, 0.5),
        (2600, 2, 128, 1, 0.5),
        (1100, 40, 128, 2, 0.3),  # more tiles than any card has processors: a program takes several, of 5 blocks
        (700, 72, 64, 2, 0.4),  # and of 4
    ],
)
def test_it_is_the_portable_kernel(length: int, heads: int, dim: int, batch: int, topk: float, stages: int) -> None:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to("cuda", torch.bfloat16)

    q, k, v = (normal(batch, length, heads, dim) for _ in range(3))
    weight, bias = normal(dim, dim) / dim**0.5, normal(dim)
    ready = sparse_linear.prepare_8bit(q, k, v, weight, topk, tuning.find_8bit(90, dim))
    portable = sparse_linear.attend_8bit(q, ready, bias, tuning.Attend8(64, 128, 4, 5))
    own = sparse_linear.attend_8bit(q, ready, bias, tuning.AttendHopper(stages))
    assert accuracy.relative_error(own, portable) <= accuracy.SAME_ARITHMETIC
