"""What of a model stays on the card and what waits on the host, from its size and the card's free memory."""

from dataclasses import dataclass

import torch

from model.checkpoints import int8, safetensors
from model.checkpoints.entries import Checkpoint
from model.library import Weights
from model.wan.config import Preset

# Bytes beside the weights that one frame's pixel costs in the largest stage, decoding: 16.1 GiB at 1280 x 720,
# 7.0 GiB at 832 x 480, float32 and bfloat16 layers of cuDNN included (H100, `python -m model.bench load --render`).
_WORK_PER_PIXEL = 19_000
_MARGIN = 1 << 30  # CUDA's context, fragments


@dataclass(frozen=True)
class Plan:
    """`text_on_host`: the text encoder's weights come to the card only while a prompt is encoded."""

    text_on_host: bool = False


def plan_for(preset: Preset, weights: Weights, free: int) -> Plan:
    """The plan that keeps most on a card with `free` bytes. A larger `free` never moves anything off it."""
    itemsize = torch.empty(0, dtype=getattr(torch, preset.dtype)).itemsize
    denoiser = sum(
        numbers(int8.expanded(safetensors.open_files(f))) for f in (weights.transformer, weights.low) if f
    )
    rest = sum(numbers(safetensors.open_files(files)) for files in (weights.vae, weights.text_encoder))
    work = _WORK_PER_PIXEL * preset.size[0] * preset.size[1]
    return Plan(text_on_host=itemsize * (denoiser + rest) + work + _MARGIN > free)


def free_bytes(device: torch.device | str) -> int | None:
    """Of a CUDA card, now; None for a CPU, which has nothing to move weights to."""
    wanted = torch.device(device)
    return torch.cuda.mem_get_info(wanted)[0] if wanted.type == "cuda" else None


def numbers(checkpoint: Checkpoint) -> int:
    """How many numbers it holds. Reads no tensor."""
    return sum(torch.Size(entry.shape).numel() for entry in checkpoint.values())
