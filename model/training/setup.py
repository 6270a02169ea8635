"""What is being trained: the demo model's shapes, and the two sizes of clips that the stages see.

The denoiser first learns on small clips, which are cheap, then on whole ones: the same scenes at half the
resolution and half the frames.
"""

from dataclasses import dataclass, replace
from typing import Literal

from model.wan.config import TransformerConfig, VAEConfig

VAE = VAEConfig(dim=16, res_blocks=1, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)
# head_dim 64 is what the attention kernels take; 5 layers of 8-bit weights keep both models under 16 MB.
TEXT_TO_VIDEO = TransformerConfig(
    dim=256, ffn_dim=576, heads=4, layers=5, text_dim=128, text_len=48, sla=True
)  # fmt: skip
# Image-to-video hears of the first frame through 4 mask channels and 16 of its latent (Wan2.2).
SHAPES = {"t2v": TEXT_TO_VIDEO, "i2v": replace(TEXT_TO_VIDEO, in_channels=36)}
GUIDANCE = 3.0  # what the teacher is guided by, and the student learns
SIGMA_MAX = 80.0
TOPK = 0.1  # share of key blocks that sparse attention keeps


@dataclass(frozen=True)
class Clips:
    """side x side pixels, `frames` frames. `shift`: of the noise level's distribution; larger clips need more
    noise to hide as much (Esser et al. 2024, section 5.3.2)."""

    side: int
    frames: int
    batch: int
    shift: float

    @property
    def latent(self) -> tuple[int, int, int, int]:
        return (VAE.z_dim, (self.frames + 3) // 4, self.side // 8, self.side // 8)


Size = Literal["small", "whole"]
CLIPS: dict[str, Clips] = {
    "small": Clips(side=96, frames=17, batch=1024, shift=3.0),  # 180 tokens
    "whole": Clips(side=192, frames=33, batch=128, shift=6.0),  # 1,296 tokens
}
