"""What of a model stays on the card and what waits on the host, from its size and the card's free memory.

Loads without torch: an operator may ask on a machine that will never render.
"""

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


@dataclass(frozen=True)
class Plan:
    """`text_on_host`: the text encoder's weights come to the card only while a prompt is encoded."""

    text_on_host: bool = False


PLANS = (Plan(), Plan(text_on_host=True))  # the one that keeps most on the card first


@dataclass(frozen=True)
class Parts:
    """Bytes of a model's weights as a card holds them. `denoiser`: both experts, where there are two.

    stored_8bit: some lie on disk in 8-bit codes; they are expanded while they are read.
    """

    denoiser: int
    vae: int
    text: int
    stored_8bit: bool = False


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
    denoiser, low, vae, text = (
        itemsize * headers.numbers(files)
        for files in (weights.transformer, weights.low, weights.vae, weights.text_encoder)
    )
    return Parts(denoiser + low, vae, text, headers.in_8_bits(weights.transformer))


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
    return Parts(denoiser * (1 if preset.boundary is None else 2), vae, text)


def costs(parts: Parts, size: tuple[int, int]) -> list[Cost]:
    """Of every plan at this (width, height), the one that keeps most on the card first."""
    return [cost(parts, size, plan) for plan in PLANS]


def cost(parts: Parts, size: tuple[int, int], plan: Plan) -> Cost:
    work = _WORK_PER_PIXEL * size[0] * size[1]
    always = parts.denoiser + parts.vae
    if plan.text_on_host:  # the encoder comes and goes before anything is decoded
        return Cost(plan, always, work, always + max(parts.text, work) + _MARGIN)
    return Cost(plan, always + parts.text, work, always + parts.text + work + _MARGIN)


def plan_for(preset: Preset, weights: Weights, free: int) -> Plan:
    """The plan that keeps most on a card with `free` bytes. A larger `free` never moves anything off it."""
    return plan_within(costs(parts_of(preset, weights), preset.size), free).plan


def plan_within(found: list[Cost], free: int) -> Cost:
    """The first that fits; the smallest where none does: it may still be enough for a smaller video."""
    return next((one for one in found if one.peak <= free), found[-1])


def free_bytes(device: "torch.device | str") -> int | None:
    """Of a CUDA card, now; None for a CPU, which has nothing to move weights to."""
    import torch

    wanted = torch.device(device)
    return torch.cuda.mem_get_info(wanted)[0] if wanted.type == "cuda" else None
