"""Weights into modules on a device: what a pipeline keeps resident."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels import switch
from model.checkpoints import int8, safetensors
from model.checkpoints.entries import Device
from model.checkpoints.fill import check_shapes, fill, tensors
from model.library import Library, Weights
from model.memory import LINEARS, Plan, asked_linears, free_bytes, plan_beside
from model.wan.config import Preset
from model.wan.quantize import DTYPES, quantize_linears
from model.wan.transformer import WanTransformer
from model.wan.vae import WanVAE

M = TypeVar("M", bound=nn.Module)


class TextEncoder(Protocol):
    """Prompts to text rows [b, text_len, text_dim], zero past each prompt."""

    def encode(self, prompts: list[str]) -> Tensor: ...

    def visit(self) -> int:
        """Bytes that come to the card while prompts are encoded, and go again."""
        ...


@dataclass(frozen=True)
class Resident:
    """A model's parts on their device. `low`: the expert for t < boundary, where there are two.

    preview: [z + 1, 3], the linear map from a latent pixel to its colour.
    """

    text: TextEncoder
    transformer: WanTransformer
    low: WanTransformer | None
    vae: WanVAE
    preview: Tensor
    digest: str


def load(preset: Preset, library: Library, device: Device, plan: Plan | None = None) -> Resident:
    """Read a model's weights. Raises CorruptWeights naming file, tensor, expected and found.

    plan: what stays on the card; None: what its memory allows, once all is there that has to be.
    """
    weights = library.weights(preset)
    if preset.dtype == "float32":  # cuDNN would round to 10 bits: one seed, one video on every device
        torch.backends.cudnn.allow_tf32 = False
    dtype = getattr(torch, preset.dtype)
    codes = linear_codes(preset, device)
    transformer = _transformer(preset, weights.transformer, dtype, device, codes)
    low = _transformer(preset, weights.low, dtype, device, codes) if weights.low else None
    vae = WanVAE(preset.vae)  # not on meta: its latent statistics are buffers that no file holds
    fill(vae, safetensors.open_files(weights.vae), dtype, device)
    _rest(vae, device)
    if plan is None:
        free = free_bytes(device)
        plan = Plan() if free is None else plan_beside(preset, weights, free)
    return Resident(
        _text(preset, library, weights, dtype, device, plan), transformer, low, vae,
        _preview(preset, weights, vae, device), weights.digest,
    )  # fmt: skip


def linear_codes(preset: Preset, device: Device) -> torch.dtype | None:
    """In which 8 bits the transformer's linear layers compute; None: in the preset's own dtype.

    Distilled bfloat16 models on a CUDA card: fp8, or before compute capability 8.9 int8; not where the kernels are
    switched off or cannot run, for without them 8 bits only cost. TURBOFARM_LINEARS=bf16, fp8 or int8 says
    otherwise. Raises ValueError where it says anything else, or fp8 to a card that has none.
    """
    where = torch.device(device)
    asked = asked_linears()
    if where.type != "cuda" or preset.dtype != "bfloat16" or asked == "bf16":
        return None
    best = switch.operand_dtype(where)
    if asked == "fp8" and best != DTYPES["fp8"]:
        raise ValueError(f"{LINEARS}=fp8: this card's compute capability is below 8.9; say int8 or bf16")
    if asked:
        return DTYPES[asked]
    fast = switch.forced() != "reference" and switch.device_obstacle(where) is None
    return best if preset.distilled and fast else None


def _transformer(
    preset: Preset, files: tuple[Path, ...], dtype: torch.dtype, device: Device, codes: torch.dtype | None
) -> WanTransformer:
    with torch.device("meta"):
        model = WanTransformer(preset.transformer, preset.topk)
    fill(model, int8.expanded(safetensors.open_files(files)), dtype, device)
    for part in (model.time_embedding, model.time_projection):
        part.float()
    model = _rest(model, device)
    if codes is not None:
        quantize_linears(model, codes)
    return model


def _text(
    preset: Preset, library: Library, weights: Weights, dtype: torch.dtype, device: Device, plan: Plan
) -> TextEncoder:
    checkpoint = safetensors.open_files(weights.text_encoder)
    if preset.text_encoder == "demo":
        from model.demo.text_encoder import DemoTextEncoder

        with torch.device("meta"):
            demo = DemoTextEncoder(preset.transformer.text_dim, preset.transformer.text_len)
        fill(demo, checkpoint, dtype, device)
        return _rest(demo, device)
    # transformers takes seconds to import: only models that read text with it pay.
    from model.wan.text_cache import TextCache
    from model.wan.text_encoder import UMT5TextEncoder, WanText, WanTokenizer

    assert weights.tokenizer is not None
    with torch.device("meta"):
        encoder = UMT5TextEncoder(preset.umt5)
    home = "cpu" if plan.text_on_host else device
    encoder.fill(checkpoint, dtype, home)
    digest = library.read(preset.text_part).digest
    cache = TextCache(library.folder / ".text", f"{digest} {preset.dtype}")
    return WanText(WanTokenizer(weights.tokenizer, preset.umt5.text_len), _rest(encoder, home), device, cache)


def _preview(preset: Preset, weights: Weights, vae: WanVAE, device: Device) -> Tensor:
    if weights.preview is None:
        return fit_preview(vae)
    checkpoint = safetensors.open_files([weights.preview])
    expected = {"colour": torch.empty(preset.vae.z_dim + 1, 3)}
    check_shapes(checkpoint, expected)
    return tensors(checkpoint, expected, torch.float32, device)["colour"]


@torch.inference_mode()
def fit_preview(vae: WanVAE) -> Tensor:
    """The linear map [z + 1, 3] that best explains the colours this VAE decodes: least squares on noise."""
    weight = vae.conv1.weight
    noise = torch.randn(8, vae.config.z_dim, 1, 8, 8, generator=torch.Generator("cpu").manual_seed(0))
    latent = F.interpolate(noise[:, :, 0], scale_factor=2, mode="bilinear")[:, :, None]  # smooth, as pictures are
    colours = F.avg_pool2d(vae.decode(latent.to(weight)).clamp(-1, 1)[:, :, 0].float(), 8)
    rows = latent[:, :, 0].movedim(1, -1).reshape(-1, vae.config.z_dim)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    target = colours.movedim(1, -1).reshape(-1, 3).cpu()
    return torch.linalg.lstsq(rows, target).solution.to(weight.device)


def _rest(module: M, device: Device) -> M:
    return module.to(device).eval().requires_grad_(False)
