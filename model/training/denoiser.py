"""The denoiser and its text encoder as training sees them: one module, batches from a pool of latents."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.demo.text_encoder import DemoTextEncoder
from model.training.run import resume
from model.wan.config import TransformerConfig
from model.wan.transformer import WanTransformer


class Denoiser(nn.Module):
    """Velocity of noisy latents, given captions and for image-to-video the first frame."""

    def __init__(self, shapes: TransformerConfig) -> None:
        super().__init__()
        self.transformer = WanTransformer(shapes)
        self.text_encoder = DemoTextEncoder(shapes.text_dim, shapes.text_len)

    def text(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """ids [b, text_len] -> rows [b, text_len, text_dim]; keep [b]: 0 where the caption is dropped."""
        rows = self.text_encoder(ids)
        return rows if keep is None else rows * keep[:, None, None]

    def forward(self, x: Tensor, t: Tensor, text: Tensor, condition: Tensor | None = None) -> Tensor:
        """x [b, z, t, h, w]; t [b] in [0, 1]; condition [b, 4 + z, t, h, w]. Velocity in float32."""
        whole = x if condition is None else torch.cat([x, condition], dim=1)
        return self.transformer(whole, 1000 * t, text).float()

    def compile_blocks(self) -> None:
        """One compilation serves all blocks: they are alike."""
        for block in self.transformer.blocks:
            block.compile()


def initialise(model: Denoiser) -> None:
    """Small and quiet: gates and the head start near zero, so that early steps are stable."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    transformer = model.transformer
    nn.init.normal_(transformer.get_parameter("time_projection.1.weight"), std=0.02)
    nn.init.zeros_(transformer.head.head.weight)
    for block in transformer.blocks:
        nn.init.normal_(block.get_parameter("modulation"), std=0.02)
        # The linear branch starts silent: the model begins as what it was without it.
        nn.init.zeros_(block.get_parameter("self_attn.proj_l.weight"))
    nn.init.normal_(model.text_encoder.token_embedding.weight, std=0.5)


def resume_wider(model: Denoiser, path: Path) -> None:
    """Text-to-video weights into an image-to-video model: what it is told of the image starts unheard."""
    state = {k: v.float() for k, v in load_file(path).items()}
    name = "transformer.patch_embedding.weight"
    old, config = state[name], model.transformer.config
    wide = torch.zeros_like(model.transformer.patch_embedding.weight)
    # A patch is its channels one after the other, and the new ones come last.
    wide[:, : old.shape[1]] = old
    assert wide.shape[1] > old.shape[1] == wide.shape[1] // config.in_channels * config.out_channels
    state[name] = wide
    model.load_state_dict(state)


def loaded(shapes: TransformerConfig, path: Path, device: torch.device | str) -> Denoiser:
    """A trained denoiser, frozen."""
    model = Denoiser(shapes)
    if not resume(model, path):
        raise SystemExit(f"{path} is missing: run the stage that makes it first (model/training/README.md)")
    return model.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Batch:
    """x0 [b, z, t, h, w] float32; ids [b, text_len] int64; condition [b, 4 + z, t, h, w] or None."""

    x0: Tensor
    ids: Tensor
    condition: Tensor | None


class Pool:
    """Encoded clips with their captions, on the device."""

    def __init__(self, path: Path, image: bool, device: torch.device) -> None:
        pool = load_file(path)
        self.latents, self.tokens = pool["latents"].to(device), pool["tokens"].to(device)
        if image and "images" not in pool:
            raise SystemExit(f"{path} has no first frames: make it with --images")
        self.images = pool["images"].to(device) if image else None

    def __len__(self) -> int:
        return len(self.latents)

    def draw(self, batch: int) -> Batch:
        device = self.latents.device
        rows = torch.randint(len(self), (batch,), device=device)
        wording = torch.randint(self.tokens.shape[1], (batch,), device=device)
        x0 = self.latents[rows].float()
        return Batch(x0, self.tokens[rows, wording].long(), self._condition(rows, x0))

    def _condition(self, rows: Tensor, x0: Tensor) -> Tensor | None:
        """As model.wan.conditioning.image_condition: mask, then the latent of the image and zero frames."""
        if self.images is None:
            return None
        mask = torch.zeros_like(x0[:, :4])
        mask[:, :, 0] = 1
        return torch.cat([mask, self.images[rows].float()], dim=1)


def noise_levels(count: int, shift: float, device: torch.device) -> Tensor:
    """Logit-normal times in (0, 1), moved towards noise by `shift` (Esser et al. 2024): [count]."""
    t = torch.sigmoid(torch.randn(count, device=device))
    return shift * t / (1 + (shift - 1) * t)


def over(t: Tensor) -> Tensor:
    """[b] as a factor of [b, z, t, h, w]."""
    return t.view(-1, 1, 1, 1, 1)
