"""Do the Triton kernels compile and compute rightly on this machine's card? `python -m kernels.selftest`

What `farm doctor` runs. Needs neither torch nor Triton to be imported: their absence is a finding.
"""

import math
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# (batch, length, heads, head_dim, topk): one row, a full block and one more, tails of both block sizes, two batches
SHAPES = ((1, 1, 1, 128, 0.5), (2, 129, 3, 64, 0.5), (1, 1650, 2, 128, 0.1), (1, 1408, 2, 64, 0.2))
MANY = (1, 129, 150, 64, 1.0)  # more tiles than a card has processors: a program that stays takes several
SUMS = (640, 2608)  # inputs of a linear layer: few, and so many that in fp8 other kernels sum them, in parts


@dataclass(frozen=True)
class Result:
    """What was found: `sentence` for a person, `next` what to do about it, `figures` what was measured."""

    ok: bool
    sentence: str
    next: str = ""
    figures: dict[str, float | str] = field(default_factory=dict[str, float | str])


def run(device: str | None = None) -> Result:
    """Compare the kernels with their references on a device ("cuda:1"); by default on the current CUDA card."""
    try:
        import torch
    except ImportError as error:
        return Result(False, f"torch cannot be imported: {error}", "pip install 'turbofarm[gpu]'")
    if device is None and not torch.cuda.is_available():
        return Result(True, "There is no CUDA card here: no kernel was run, the torch references are used.")
    from kernels import switch

    where = torch.device(device or "cuda")
    try:
        obstacle = switch.device_obstacle(where)
        if obstacle is None:
            return _compare(where)
    except Exception as error:  # whatever stops a kernel is the finding
        return diagnose(error)
    if "Triton" in obstacle:
        return Result(False, f"The kernels cannot run: {obstacle}.", "pip install 'turbofarm[gpu]'")
    return Result(True, f"The kernels do not run here ({obstacle}): the torch references are used.")


@dataclass(frozen=True)
class Check:
    """One kernel, as a sentence calls it, how far it is from its reference, and how far it may be."""

    name: str
    error: float
    limit: float

    @property
    def right(self) -> bool:
        return self.error <= self.limit  # NaN is not

    @property
    def measured(self) -> str:
        return f"error {self.error:.1e} (limit {self.limit:.0e})"


def _compare(device: "torch.device") -> Result:
    import torch

    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "Triton's interpreter"
    attention, unlike = _attention(device)
    checks = {**attention, "linear": _linear(device), "element-wise": _elementwise(device)}
    figures: dict[str, float | str] = {"device": name, "wrong blocks": unlike}
    for kind, check in checks.items():
        figures |= {f"{kind} error".lstrip(): check.error, f"{kind} limit".lstrip(): check.limit}
    told = [f"{check.name} is wrong on {name}: {check.measured}" for check in checks.values() if not check.right]
    if unlike:
        told.append(f"sparse-linear attention keeps {unlike} blocks that the reference would not keep")
    if told:
        cure = "Render with TURBOFARM_KERNELS=reference, and report the card, the driver and the Triton version."
        return Result(False, _sentence(told), cure, figures)
    listed = "; ".join(f"{check.name}, {check.measured}" for check in checks.values())
    return Result(True, f"The kernels are right on {name}: {listed}.", "", figures)


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _attention(device: "torch.device") -> tuple[dict[str, Check], int]:
    """In 16 bits and, where the card has it, in 8; and how many blocks no near tie of scores excuses."""
    import torch

    from kernels import accuracy
    from kernels.attention.block_map import block_index
    from kernels.attention.sparse_linear import prepare_8bit, sparse_linear_attention
    from kernels.tuning import sparse_linear as tuning

    dtype = _dtype(device)
    error, error_8bit, unlike = 0.0, 0.0, 0
    eight = tuning.has_8bit(device)
    for seed, (b, length, h, d, topk) in enumerate((*SHAPES, MANY) if device.type == "cuda" else SHAPES):
        draw = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(b, length, h, d, generator=draw).to(device, dtype) for _ in range(3))
        k[..., 3] += 8  # a channel with an offset, as real keys have
        weight, bias = torch.randn(d, d, generator=draw) / d**0.5, torch.randn(d, generator=draw)
        weight, bias = weight.to(device, dtype), bias.to(device, dtype)
        index = block_index(q, k, topk)
        out = sparse_linear_attention(q, k, v, weight, bias, topk, "bf16")
        expected = accuracy.sparse_linear_given(q, k, v, index, weight, bias)
        error = _worse(accuracy.relative_error(out, expected), error)
        unlike += accuracy.worse_blocks(q, k, index, topk)[1]
        if eight:
            index = prepare_8bit(q, k, v, weight, topk, tuning.of_device_8bit(device, d)).index
            out = sparse_linear_attention(q, k, v, weight, bias, topk, "8bit")
            expected = accuracy.sparse_linear_8bit(q, k, v, index, weight, bias)
            error_8bit = _worse(accuracy.relative_error(out, expected), error_8bit)
            unlike += accuracy.worse_blocks(q, k, index, topk)[1]
    found = {"": Check("sparse-linear attention", error, accuracy.TOLERANCE[dtype])}
    if eight:
        found["8-bit"] = Check("sparse-linear attention in 8 bits", error_8bit, accuracy.SAME_ARITHMETIC)
    return found, unlike


def _linear(device: "torch.device") -> Check:
    """Layers with tails in every direction, in the card's own 8 bits: by what runs there, and by our GEMM."""
    import torch

    from kernels import accuracy
    from kernels.linear import fast, gemm, reference, weights
    from kernels.quantized import quantize_rows

    dtype, codes = _dtype(device), _codes(device)
    kind, error = "int8" if codes == torch.int8 else "fp8", 0.0
    for k in SUMS if kind == "fp8" else SUMS[:1]:
        draw = torch.Generator().manual_seed(0)
        x, weight, bias = (torch.randn(size, generator=draw).to(device) for size in ((300, k), (272, k), (272,)))
        rows, matrix, bias = quantize_rows(x, codes), weights.by_channel(weight / k**0.5, codes), bias.to(dtype)
        expected = reference.linear(rows, matrix, bias, exact=True)
        for linear in (fast.linear, gemm.linear):
            found = linear(rows, matrix, bias, dtype=dtype)
            error = _worse(accuracy.relative_error(found, expected), error)
    return Check(f"a linear layer in {kind}", error, accuracy.SAME_ARITHMETIC)


def _elementwise(device: "torch.device") -> Check:
    """Gate, residual, norm and quantisation in one read, as between a block's attention and its feed-forward."""
    import torch

    from kernels import accuracy
    from kernels.elementwise import fused, reference
    from kernels.quantized import Rows

    b, length, width = 2, 150, 1536
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(b, length, width, generator=draw).to(device, _dtype(device)) for _ in range(2))
    scale, shift, gate = (torch.randn(b, width, generator=draw).to(device) / 2 for _ in range(3))
    how = reference.Modulation(scale, shift, 1e-6)
    summed, rows = fused.gate_residual_norm(x, y, gate, how, _codes(device))
    expected, expected_rows = reference.gate_residual_norm(x, y, gate, how, _codes(device))
    assert isinstance(rows, Rows)
    assert isinstance(expected_rows, Rows)
    error = accuracy.relative_error(rows.float(), expected_rows.float())
    # Where a rounding falls to the other side of a tie of two codes, an element moves by 6 % or more.
    return Check("element-wise work", _worse(accuracy.relative_error(summed, expected), error), accuracy.BFLOAT16)


def _dtype(device: "torch.device") -> "torch.dtype":
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32  # the interpreter computes bfloat16 wrongly


def _codes(device: "torch.device") -> "torch.dtype":
    import torch

    from kernels import switch

    return switch.operand_dtype(device) if device.type == "cuda" else torch.int8  # and casts to fp8 wrongly


def _worse(one: float, other: float) -> float:
    return max(one, other, key=lambda error: (math.isnan(error), error))


def diagnose(error: BaseException) -> Result:
    """What a failed compilation or launch means. Triton builds a small C module at a kernel's first launch."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    text = " ".join(str(error).split())[:300]
    if compiler is None or (isinstance(error, OSError) and shutil.which(compiler) is None):
        named = f"CC={compiler} is not there" if compiler else "there is none"
        return Result(False, f"Triton needs a C compiler and {named}.", "apt-get install gcc")
    if isinstance(error, subprocess.CalledProcessError):
        if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
            return Result(
                False, f"Triton needs Python {version}'s headers.", f"apt-get install python{version}-dev"
            )
        return Result(
            False, f"The C compiler {compiler} failed on Triton's launcher: {text}", "See its output above."
        )
    if isinstance(error, ImportError):
        return Result(False, f"Triton cannot be imported: {text}", "pip install 'turbofarm[gpu]'")
    if type(error).__name__ == "OutOfResources":
        return Result(False, f"A kernel does not fit this card: {text}", "Render with TURBOFARM_KERNELS=reference.")
    return Result(
        False,
        f"A kernel could not be compiled or run: {type(error).__name__}: {text}",
        "Check the driver with nvidia-smi; TURBOFARM_KERNELS=reference renders without kernels.",
    )


def main() -> int:
    result = run()
    print(result.sentence)
    if result.next:
        print(result.next, file=sys.stderr)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
