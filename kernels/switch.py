"""The one place that decides between a Triton kernel and its torch reference.

A CPU always gets the reference; a CUDA card gets the kernel where there is one for its inputs. To force one:
TURBOFARM_KERNELS=reference or fast, or `use(...)` from code.
"""

import importlib.util
import os
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from kernels import reference
from kernels.elementwise import reference as elementwise_reference
from kernels.linear import reference as linear_reference
from kernels.linear.weights import Tiles
from kernels.quantized import FP8, Rows

VARIABLE = "TURBOFARM_KERNELS"
OLDEST = (8, 0)  # compute capability of the first cards with bfloat16 products

Choice = Literal["reference", "fast"]
Arithmetic = Literal["bf16", "8bit"]
_chosen: Choice | None = None


def use(choice: Choice | None) -> None:
    """Force the reference or the kernels from now on, above the environment; None leaves it to the inputs."""
    global _chosen
    _chosen = choice


def forced() -> Choice | None:
    """What `use` or the environment asks for. Raises ValueError where the variable says anything else."""
    asked = _chosen or os.environ.get(VARIABLE) or None
    if asked == "reference" or asked == "fast" or asked is None:
        return asked
    raise ValueError(f"{VARIABLE}={asked}: say reference or fast, or leave it unset")


def sparse_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor | None,
    topk: float,
    arithmetic: Arithmetic | None = None,
) -> Tensor:
    """`kernels.reference.sparse_linear_attention`, by the fastest means that its inputs allow.

    arithmetic: the kernel's products, "bf16" or "8bit"; None leaves it to the card. The reference has its own.
    Raises ValueError where the kernel is forced on inputs that it cannot take.
    """
    choice = forced()
    if choice == "reference" or (choice is None and q.device.type != "cuda"):
        return reference.sparse_linear_attention(q, k, v, proj_weight, proj_bias, topk)
    obstacle = sparse_linear_obstacle(q, k, v, proj_weight, proj_bias)
    if obstacle is None:
        from kernels.attention import sparse_linear  # loads Triton, which not every machine has

        return sparse_linear.sparse_linear_attention(q, k, v, proj_weight, proj_bias, topk, arithmetic)
    if choice == "fast":
        raise ValueError(f"the sparse-linear attention kernel cannot run: {obstacle}")
    return reference.sparse_linear_attention(q, k, v, proj_weight, proj_bias, topk)


def sparse_linear_obstacle(
    q: Tensor, k: Tensor, v: Tensor, proj_weight: Tensor, proj_bias: Tensor | None
) -> str | None:
    """Why the kernel cannot take these inputs; None where it can."""
    if q.shape[-1] not in (64, 128):
        return f"head_dim is {q.shape[-1]}, not 64 or 128"
    if q.dtype not in (torch.bfloat16, torch.float16, torch.float32) or not q.dtype == k.dtype == v.dtype:
        return f"q, k, v are {q.dtype}, {k.dtype}, {v.dtype}, not one of bfloat16, float16, float32"
    if torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (q, k, v, proj_weight, proj_bias)
    ):
        return "gradients are wanted and the kernel computes forward only"
    return device_obstacle(q.device)


def elementwise(x: Tensor) -> ModuleType:
    """Who does the element-wise work on x: `kernels.elementwise.fused` or `reference`, alike in their functions.

    Raises ValueError where the kernels are forced on inputs that they cannot take.
    """
    choice = forced()
    if choice == "reference" or (choice is None and x.device.type != "cuda"):
        return elementwise_reference
    obstacle = elementwise_obstacle(x)
    if obstacle is None:
        from kernels.elementwise import fused  # loads Triton, which not every machine has

        return fused
    if choice == "fast":
        raise ValueError(f"the element-wise kernels cannot run: {obstacle}")
    return elementwise_reference


def elementwise_obstacle(x: Tensor) -> str | None:
    """Why the kernels cannot take x; None where they can."""
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"x is {x.dtype}, not one of bfloat16, float16, float32"
    if torch.is_grad_enabled():
        return "gradients may be wanted and the kernels compute forward only: use torch.no_grad"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast chooses dtypes, and the kernels would not follow"
    return device_obstacle(x.device)


def device_obstacle(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on a device; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type != "cuda":
        interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpreted else f"the device is {device.type}, not a CUDA card"
    if torch.version.cuda is None:
        return "this build of torch is not for CUDA"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= OLDEST else f"compute capability is {major}.{minor}, below 8.0"


def linear(
    x: Rows,
    weight: Rows | Tiles,
    bias: Tensor | None,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`kernels.linear.reference.linear`, by the fastest means that its inputs allow.

    Raises ValueError where the kernel is forced on inputs that it cannot take.
    """
    if _linear_by_reference(x, weight):
        return linear_reference.linear(x, weight, bias, dtype=dtype)
    from kernels.linear import fast  # loads Triton, which not every machine has

    return fast.linear(x, weight, bias, dtype=dtype)


def linear_gelu_rows(x: Rows, weight: Rows, bias: Tensor | None, reach: Tensor) -> Rows:
    """`kernels.linear.reference.linear_gelu_rows`, likewise. fp8 only."""
    if _linear_by_reference(x, weight):
        return linear_reference.linear_gelu_rows(x, weight, bias, reach)
    from kernels.linear import fast

    return fast.linear_gelu_rows(x, weight, bias, reach)


def operand_dtype(device: torch.device) -> torch.dtype:
    """In which 8 bits a device multiplies best: fp8 from compute capability 8.9 on, int8 before."""
    cuda = device.type == "cuda"
    return torch.int8 if cuda and torch.cuda.get_device_capability(device) < (8, 9) else FP8


def linear_obstacle(x: Rows, weight: Rows | Tiles) -> str | None:
    """Why the 8-bit GEMM cannot take these operands; None where it can."""
    if x.codes.dtype != weight.codes.dtype:
        return f"the codes are {x.codes.dtype} and {weight.codes.dtype}: they must be alike"
    n, k = weight.codes.shape
    if x.codes.shape[1] != k:
        return f"the input has {x.codes.shape[1]} channels and the weight takes {k}"
    if n % 16 or k % 16:
        return f"{n} outputs and {k} inputs are not multiples of 16"
    if what := device_obstacle(x.codes.device):
        return what
    if x.codes.dtype == FP8 and x.codes.is_cuda and torch.cuda.get_device_capability(x.codes.device) < (8, 9):
        return "fp8 products begin with compute capability 8.9"
    return None


def _linear_by_reference(x: Rows, weight: Rows | Tiles) -> bool:
    choice = forced()
    if choice == "reference" or (choice is None and x.codes.device.type != "cuda"):
        return True
    obstacle = linear_obstacle(x, weight)
    if obstacle and choice == "fast":
        raise ValueError(f"the 8-bit GEMM cannot run: {obstacle}")
    return obstacle is not None
