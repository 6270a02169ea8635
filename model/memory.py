"""What of a model stays on the card and what waits on the host, from its size and the card's free memory.

Loads without torch: an operator may ask on a machine that will never render.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.checkpoints import headers
from model.library import Weights
from model.wan.config import Preset

if TYPE_CHECKING:
    import torch

# Bytes beside the weights that one frame's pixel costs in the largest stage, decoding: 16.1 GiB at 1280 x 720,
# 7.0 GiB at 832 x 480, float32 and bfloat16 layers of cuDNN included (H100, `python -m model.bench load --render`).
# Frames are decoded a few at a time: how many there are does not matter.
_WORK_PER_PIXEL = 19_000
_MARGIN = 1 << 30  # CUDA's context, fragments
_ITEMSIZE = {"float32": 4, "bfloat16": 2}
LINEARS = "TURBOFARM_LINEARS"


@dataclass(frozen=True)
class Plan:
    """`text_on_host`: the text encoder's weights come to the card only while a prompt is encoded."""

    text_on_host: bool = False


PLANS = (Plan(), Plan(text_on_host=True))  # the one that keeps most on the card first


@dataclass(frozen=True)
class Parts:
    """Bytes of a model's weights as a card holds them. `denoiser`: both experts, where there are two.

    stored_8bit: some lie on disk in 8-bit codes; they are expanded while they are read. linears_8bit: the linear
    layers of the denoiser are quantised then, and counted so. reading: what the denoiser takes at most before that:
    an expert comes whole, and the first is there in 8 bits when the second does.
    """

    denoiser: int
    vae: int
    text: int
    stored_8bit: bool = False
    linears_8bit: bool = False
    reading: int = 0


@dataclass(frozen=True)
class Cost:
    """Bytes that a plan takes of a card: all the time, while a video is decoded beside that, and at most."""

    plan: Plan
    resident: int
    work: int
    peak: int


def parts_of(preset: Preset, weights: Weights) -> Parts:
    """From the headers of its files. Raises CorruptWeights."""
    itemsize = _ITEMSIZE[preset.dtype]
    high, low, vae, text = (
        itemsize * headers.numbers(files)
        for files in (weights.transformer, weights.low, weights.vae, weights.text_encoder)
    )
    shapes = headers.shapes(weights.transformer)
    saved = _saved(shapes, itemsize) if linears_in_8_bits(preset) else 0
    wide = _wide(shapes, itemsize)
    low = low + wide if low else 0
    return _parts(high + wide, low, vae, text, saved, headers.in_8_bits(weights.transformer))


def parts_of_shapes(preset: Preset) -> Parts:
    """Of a model whose files are not here: from its layers. Needs torch. Raises ImportError."""
    import torch

    from model.wan.text_encoder import UMT5TextEncoder
    from model.wan.transformer import WanTransformer
    from model.wan.vae import WanVAE

    with torch.device("meta"):
        layers = WanTransformer(preset.transformer, preset.topk), WanVAE(preset.vae), UMT5TextEncoder(preset.umt5)
    itemsize = _ITEMSIZE[preset.dtype]
    denoiser, vae, text = (itemsize * sum(p.numel() for p in layer.parameters()) for layer in layers)
    shapes = {name: tuple(p.shape) for name, p in layers[0].named_parameters()}
    saved = _saved(shapes, itemsize) if linears_in_8_bits(preset) else 0
    denoiser += _wide(shapes, itemsize)
    return _parts(denoiser, 0 if preset.boundary is None else denoiser, vae, text, saved)


def asked_linears() -> str | None:
    """What TURBOFARM_LINEARS asks for. Raises ValueError where it is no way to keep linear layers."""
    asked = os.environ.get(LINEARS) or None
    if asked not in (None, "bf16", "fp8", "int8"):
        raise ValueError(f"{LINEARS}={asked}: say bf16, fp8 or int8, or leave it unset")
    return asked


def linears_in_8_bits(preset: Preset) -> bool:
    """What `model.loading.linear_codes` decides on a card that the kernels run on (compute capability 8.0 and up).

    Whether they run on the card asked about is not known here: on an older one the layers stay as they are.
    """
    asked = asked_linears()
    if preset.dtype != "bfloat16" or asked == "bf16":
        return False
    return asked is not None or (preset.distilled and os.environ.get("TURBOFARM_KERNELS") != "reference")


def _parts(high: int, low: int, vae: int, text: int, saved: int, stored_8bit: bool = False) -> Parts:
    """high, low: bytes of the experts as they are read, low 0 where there is one; saved: of each in 8 bits."""
    if not low:
        return Parts(high - saved, vae, text, stored_8bit, saved > 0, reading=high)
    return Parts(high + low - 2 * saved, vae, text, stored_8bit, saved > 0, reading=max(high, high - saved + low))


def _wide(shapes: Mapping[str, Sequence[int]], itemsize: int) -> int:
    """Bytes that a transformer takes more because its layers of time are float32, whatever the others are."""
    time = ("time_embedding.", "time_projection.")
    return sum((4 - itemsize) * math.prod(shape) for name, shape in shapes.items() if name.startswith(time))


def _saved(shapes: Mapping[str, Sequence[int]], itemsize: int) -> int:
    """Bytes that a transformer's layers take less after `model.wan.quantize`: a code a weight, a float32 a row."""
    return sum(
        (itemsize - 1) * math.prod(shape) - 4 * shape[0]
        for name, shape in shapes.items()
        if name.startswith("blocks.") and len(shape) == 2 and name.endswith((".weight", headers.CODES))
        if ".proj_l." not in name
    )


def costs(parts: Parts, size: tuple[int, int]) -> list[Cost]:
    """Of every plan at this (width, height), the one that keeps most on the card first."""
    return [cost(parts, size, plan) for plan in PLANS]


def cost(parts: Parts, size: tuple[int, int], plan: Plan) -> Cost:
    work = decoding_bytes(size)
    always = parts.denoiser + parts.vae
    if plan.text_on_host:  # the encoder comes and goes before anything is decoded
        most = always + max(parts.text, work)
    else:
        always += parts.text
        most = always + work
    # The denoiser is read before all else.
    return Cost(plan, always, work, max(most, parts.reading) + _MARGIN)


def decoding_bytes(size: tuple[int, int]) -> int:
    """Beside the weights, while a video of this (width, height) is decoded."""
    return _WORK_PER_PIXEL * size[0] * size[1]


def plan_beside(preset: Preset, weights: Weights, free: int) -> Plan:
    """The plan that keeps most on a card where denoiser and VAE lie already and `free` bytes are left.

    In how many bits they lie there and what their loading left in fragments need not be guessed then. A larger
    `free` never moves anything off the card. Raises CorruptWeights.
    """
    text = _ITEMSIZE[preset.dtype] * headers.numbers(weights.text_encoder)
    return plan_within(costs(Parts(0, 0, text), preset.size), free).plan


def plan_within(found: list[Cost], free: int) -> Cost:
    """The first that fits; the smallest where none does: it may still be enough for a smaller video."""
    return next((one for one in found if one.peak <= free), found[-1])


def free_bytes(device: "torch.device | str") -> int | None:
    """Of a CUDA card, now, with what torch keeps of it unused; None for a CPU, which has one place for weights."""
    import torch

    wanted = torch.device(device)
    if wanted.type != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(wanted)[0]
