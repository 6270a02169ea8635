"""Do the Triton kernels compile and compute rightly on this machine's card? `python -m kernels.selftest`

What `farm doctor` runs. Needs neither torch nor Triton to be imported: their absence is a finding.
"""

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


def _compare(device: "torch.device") -> Result:
    import torch

    from kernels import accuracy
    from kernels.attention.block_map import block_index
    from kernels.attention.sparse_linear import prepare_8bit, sparse_linear_attention
    from kernels.tuning import sparse_linear as tuning

    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32  # Triton's interpreter computes bfloat16 wrongly
    limit = accuracy.TOLERANCE[dtype]
    name = torch.cuda.get_device_name(device) if cuda else "Triton's interpreter"
    error, error_8bit, unlike = 0.0, 0.0, 0
    eight = tuning.has_8bit(device)
    for seed, (b, length, h, d, topk) in enumerate(SHAPES):
        draw = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(b, length, h, d, generator=draw).to(device, dtype) for _ in range(3))
        k[..., 3] += 8  # a channel with an offset, as real keys have
        weight, bias = torch.randn(d, d, generator=draw) / d**0.5, torch.randn(d, generator=draw)
        weight, bias = weight.to(device, dtype), bias.to(device, dtype)
        index = block_index(q, k, topk)
        out = sparse_linear_attention(q, k, v, weight, bias, topk, "bf16")
        expected = accuracy.sparse_linear_given(q, k, v, index, weight, bias)
        found = accuracy.relative_error(out, expected)
        error = found if not found <= error else error  # NaN stays
        unlike += accuracy.worse_blocks(q, k, index, topk)[1]
        if eight:
            index = prepare_8bit(q, k, v, weight, topk, tuning.of_device_8bit(device, d)).index
            out = sparse_linear_attention(q, k, v, weight, bias, topk, "8bit")
            expected = accuracy.sparse_linear_8bit(q, k, v, index, weight, bias)
            found = accuracy.relative_error(out, expected)
            error_8bit = found if not found <= error_8bit else error_8bit
            unlike += accuracy.worse_blocks(q, k, index, topk)[1]
    figures: dict[str, float | str] = {"device": name, "error": error, "limit": limit, "wrong blocks": unlike}
    if eight:
        figures |= {"8-bit error": error_8bit, "8-bit limit": accuracy.SAME_ARITHMETIC}
    if error <= limit and not unlike and not error_8bit <= accuracy.SAME_ARITHMETIC:
        return Result(
            False,
            f"Sparse-linear attention in 8 bits is wrong on {name}: error {error_8bit:.1e} "
            f"(limit {accuracy.SAME_ARITHMETIC:.0e}).",
            "Render with TURBOFARM_KERNELS=reference, and report the card, the driver and the Triton version.",
            figures,
        )
    if not error <= limit or unlike:
        return Result(
            False,
            f"Sparse-linear attention is wrong on {name}: error {error:.1e} (limit {limit:.0e}), "
            f"{unlike} blocks that the reference would not keep.",
            "Render with TURBOFARM_KERNELS=reference, and report the card, the driver and the Triton version.",
            figures,
        )
    return Result(
        True, f"Sparse-linear attention is right on {name}: error {error:.1e} (limit {limit:.0e}).", "", figures
    )


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
