"""Compiles a kernel for a card that is not here, the way a launch on that card would."""

from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}  # bytes a program may use

MODEL_SIZES = ("n", "k")  # of a linear layer: multiples of 16, unlike a number of tokens


@dataclass(frozen=True)
class Compiled:
    shared: int  # bytes of shared memory
    ptx: str
    cubin: bytes


def compile_for(
    capability: int,
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    warps: int,
    stages: int | None = None,
) -> Compiled:
    """types: name -> "*bf16", "i32", ... of every runtime argument; pointers, strides, sizes: multiples of 16."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    missing = set(constants) ^ {name for name, kind in signature.items() if kind == "constexpr"}
    assert not missing, missing
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in types.items()
        if kind.startswith("*") or name.endswith(("_batch", "_row", "_head")) or name in MODEL_SIZES
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": warps} | ({"num_stages": stages} if stages else {})
    built = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    return Compiled(built.metadata.shared, built.asm["ptx"], built.asm["cubin"])
