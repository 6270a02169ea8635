"""What is being trained: the demo model's shapes, and the two sizes of clips that the stages see.

The denoiser first learns on small clips, which are cheap, then on whole ones: the same scenes at half the
resolution and half the frames.
"""

from dataclasses import dataclass
from typing import Literal

from model.wan.config import TransformerConfig, demo

# head_dim 64 is what the attention kernels take; 5 layers of 8-bit weights keep both models under 16 MB.
# Image-to-video hears of the first frame through 4 mask channels and 16 of its latent (Wan2.2).
SHAPES: dict[str, TransformerConfig] = {"t2v": demo("t2v").transformer, "i2v": demo("i2v").transformer}
VAE = demo("t2v").vae
GUIDANCE = 3.0  # what the teacher is guided by, and the student learns
SIGMA_MAX = 80.0
TOPK = 0.25  # share of key blocks that sparse attention keeps: 5 of 21, where a tenth would leave 2


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


Task = Literal["t2v", "i2v"]
CLIPS: dict[str, Clips] = {
    "small": Clips(side=96, frames=17, batch=1024, shift=3.0),  # 180 tokens
    "whole": Clips(side=192, frames=33, batch=128, shift=6.0),  # 1,296 tokens
}
