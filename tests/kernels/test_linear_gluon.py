"""The fp8 GEMM written out for Hopper: what it compiles to, and on such a card what it computes."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.nn import functional as F
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from kernels import accuracy, tensor_core
from kernels.bench import linear as bench
from kernels.linear import gemm, gemm_gluon, reference, weights
from kernels.quantized import FP8, Rows, quantize_rows
from kernels.tuning import linear as tuning
from tests.kernels.compiling import MODEL_SIZES, SHARED

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
needs_hopper = pytest.mark.skipif(not HOPPER, reason="needs a card of compute capability 9.0")
CONFIGS = sorted(
    {c for long in (False, True) for _, c in bench.variants(long) if isinstance(c, tuning.GemmHopper)},
    key=bench.label,
)
STAGED = tuning.GemmHopper(stages=3, buffers=4)
IN_WAYS = {way for way in tuning.WAYS.values() if isinstance(way, tuning.GemmHopper)}
EVERY_END = sorted(
    IN_WAYS | {replace(c, promote=p) for c in (tuning.GemmHopper(), STAGED) for p in (0, 14)}, key=bench.label
)


def compiled(config: tuning.GemmHopper, end: tuning.End) -> Any:
    kernel: Any = gemm_gluon.multiply_gluon
    stored, element = ("fp8e4nv", 1) if end == "codes" else ("bf16", 2)
    wide = config.wide(element)
    eight = gl.NVMMASharedLayout(config.depth, 8, 2)
    staged = gl.NVMMASharedLayout(wide * element, 8 * element, 2)
    types = {name: "*fp32" for name in ("x_scale", "w_scale", "out_scale")} | {"bias": "*bf16"}
    types |= {name: "i32" for name in ("m", "n", "k")}
    types |= {"x": f"tensordesc<fp8e4nv[{config.tall}, {config.depth}],{eight!r}>"}
    types |= {"w": f"tensordesc<fp8e4nv[{config.columns}, {config.depth}],{eight!r}>"}
    types |= {"out": f"tensordesc<{stored}[{config.tall}, {wide}],{staged!r}>"}
    constants = {
        "BIAS": True, "CODES": end == "codes",
        "TALL": config.tall, "COLUMNS": config.columns, "DEPTH": config.depth, "WIDE": wide,
        "STAGES": config.stages, "BUFFERS": config.staged(element),
        "PROMOTE": config.promote, "GROUP": config.group,
    }  # fmt: skip
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in types.items()
        if kind.startswith("*") or name in MODEL_SIZES
    }
    source = GluonASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 4})


def loop_of_products(cubin: bytes, at: Path) -> list[list[str]]:
    """For each place where products are issued: what stands between the first of a step and the branch back."""
    (at / "kernel.cubin").write_bytes(cubin)
    disassembler = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    listing = subprocess.run(
        [str(disassembler), "-sass", str(at / "kernel.cubin")], capture_output=True, text=True, check=True
    ).stdout
    codes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", listing)
    loops: list[list[str]] = []
    for i, code in enumerate(codes):
        if code.startswith("QGMMA") and "BRA" in codes[:i]:
            before = len(codes[:i]) - codes[:i][::-1].index("BRA")
            if loops and loops[-1] == codes[before : codes.index("BRA", i)]:
                continue
            loops.append(codes[before : codes.index("BRA", i)])
    return loops


@pytest.mark.parametrize("config", sorted(IN_WAYS | {STAGED}, key=bench.label), ids=bench.label)
def test_it_fits_and_its_loop_keeps_a_step_in_flight(
    config: tuning.GemmHopper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for end in ("plain", "codes"):
        built = compiled(config, end)
        assert built.metadata.shared <= SHARED[90], end
        assert f"m64n{config.columns}k32.f32.e4m3.e4m3" in built.asm["ptx"]
        assert "setmaxnreg" in built.asm["ptx"]
        loops = loop_of_products(built.asm["cubin"], tmp_path)
        assert loops
        for loop in loops:
            # A step's products, then a wait for the step before: nothing is added up, and no sum is spilled here.
            assert sum(code.startswith("QGMMA") for code in loop) == config.depth // 32
            assert loop.count("WARPGROUP.DEPBAR.LE") == 1
            assert not [code for code in loop if code.startswith("FADD")], end
            assert len([code for code in loop if code.startswith(("STL", "LDL"))]) <= 4, end


def test_what_it_cannot_take_is_refused() -> None:
    x, w = torch.randn(16, 32), torch.randn(32, 32)
    integers = quantize_rows(x, torch.int8), weights.by_channel(w, torch.int8)
    config = tuning.GemmHopper()
    with pytest.raises(ValueError, match="takes fp8"):
        gemm.linear(*integers, None, config=config)
    eights = quantize_rows(x, FP8), weights.by_channel(w, FP8)
    with pytest.raises(ValueError, match="gives bfloat16"):
        gemm.linear(*eights, None, config=config, dtype=torch.float16)


def test_staging_that_no_tile_fills_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="staging"):
        tuning.GemmHopper(buffers=3)


@pytest.mark.parametrize(("given", "why"), [({"bytes": 64}, "64 bytes"), ({"stages": 1}, "all would wait")])
def test_what_would_hang_or_not_compile_is_refused(given: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tuning.GemmHopper(**given)


@pytest.mark.parametrize("config", [*CONFIGS, *EVERY_END], ids=bench.label)
@pytest.mark.parametrize("element", [1, 2])
def test_pieces_pass_through_every_buffer_evenly(config: tuning.GemmHopper, element: int) -> None:
    """A buffer is written again when all but `staged - 1` stores have read theirs: only if it is the oldest."""
    pieces = config.columns // config.wide(element)
    assert pieces % config.staged(element) == 0
    assert config.staged(element) <= config.buffers


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", torch.bfloat16)


def drawn(m: int, n: int, k: int) -> tuple[Rows, Rows, Tensor]:
    x, w = quantize_rows(normal(m, k)), weights.by_channel(normal(n, k, seed=1) / k**0.5)
    return x, w, normal(n, seed=2)


@needs_hopper
@pytest.mark.parametrize("config", CONFIGS, ids=bench.label)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    # One tile and no more; tails of every side; fewer steps than stages; many tiles for each program.
    [(1, 16, 16), (129, 272, 144), (300, 512, 1536), (70, 160, 4112), (4000, 2560, 640), (9000, 1536, 2304)],
)
def test_it_is_the_product(config: tuning.GemmHopper, m: int, n: int, k: int) -> None:
    x, w, bias = drawn(m, n, k)
    out = gemm.linear(x, w, bias, config=config)
    if config.promote or k <= tuning.LONGEST_FAST_SUM:
        assert accuracy.relative_error(out, reference.linear(x, w, bias, exact=True)) <= bench.LIMIT
    for rows in (slice(0, 40), slice(max(0, m - 40), m)):
        sums = tensor_core.fp8_sums(x.codes[rows], w.codes, config.promote * config.depth)
        same = (sums * x.scale[rows, None] * w.scale + bias.float()).to(out.dtype)
        # Its scales and bias are rounded once where here they are twice: some sums at a tie of bfloat16 differ.
        assert int((out[rows] != same).sum()) <= 1 + 2e-4 * same.numel()
    assert torch.equal(out, gemm.linear(x, w, bias, config=config))


@needs_hopper
@pytest.mark.parametrize("config", EVERY_END, ids=bench.label)
@pytest.mark.parametrize(("m", "n", "k"), [(130, 272, 144), (2000, 4608, 1536)])
def test_every_end_is_the_references(config: tuning.GemmHopper, m: int, n: int, k: int) -> None:
    x, w, bias = drawn(m, n, k)
    out = gemm.linear(x, w, None, config=config)
    assert accuracy.relative_error(out, reference.linear(x, w, None, exact=True)) <= bench.LIMIT
    scale = reference.bound(x, reference.reach(w, bias))
    found = gemm.linear_gelu_rows(x, w, bias, scale, config)
    codes = found.codes.float()
    exact = F.gelu(reference.linear(x, w, bias, exact=True), approximate="tanh")
    assert accuracy.relative_error(found.float(), exact) <= 3e-2  # the codes' own
    portable = gemm.linear_gelu_rows(x, w, bias, scale, tuning.Gemm(128, 128, 64, 4, 3)).codes.float()
    assert int((codes != portable).sum()) <= 0.01 * codes.numel()
