"""The presets: every model the farm knows, as data. Pure Python: a server reads it without torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from model.errors import ModelError

# Published statistics of the Wan2.1 VAE latents, channel by channel (Wan2.1, Apache-2.0).
WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class TransformerConfig:
    """Shapes of the DiT (Wan2.1, table of models). head_dim = dim / heads must be even and >= 6."""

    dim: int
    ffn_dim: int
    heads: int
    layers: int
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    text_len: int = 512
    freq_dim: int = 256
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    sla: bool = False  # whether layers carry proj_l, the linear branch of sparse-linear attention

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} over {self.heads} heads is not an even head_dim")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True)
class VAEConfig:
    """Shapes of the causal 3-D VAE (Wan2.1): 4x in time, 8x in space."""

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latent_mean: tuple[float, ...] = WAN_LATENT_MEAN
    latent_std: tuple[float, ...] = WAN_LATENT_STD


@dataclass(frozen=True)
class UMT5Shapes:
    """Sizes of the text encoder; the defaults are UMT5-XXL (Chung et al. 2023)."""

    vocabulary: int = 256384
    dim: int = 4096
    attention_dim: int = 4096
    ffn_dim: int = 10240
    heads: int = 64
    layers: int = 24
    buckets: int = 32
    text_len: int = 512


@dataclass(frozen=True)
class Preset:
    """One model as people name it. Sizes are (width, height) in pixels; frames are 4k + 1.

    distilled models take 1-4 rCM steps and no guidance; the others take Euler steps with guidance.
    With a `boundary` there are two transformers: steps at t >= boundary use the high-noise expert.
    `vae_part` and `text_part` name the shared components in the model library (model.library).
    """

    name: str
    task: Literal["t2v", "i2v"]
    transformer: TransformerConfig
    vae: VAEConfig
    text_encoder: Literal["umt5-xxl", "demo"]
    size: tuple[int, int]
    min_side: int
    max_side: int
    max_pixels: int
    frames: int
    max_frames: int
    fps: int
    steps: int
    max_steps: int
    distilled: bool
    guidance: float = 1.0
    shift: float = 1.0
    topk: float | None = None  # share of key blocks that self-attention keeps; None: dense
    sigma_max: float = 80.0
    boundary: float | None = None
    # What guidance leads away from where nobody says; None: from an empty text, and no other can be given.
    negative_prompt: str | None = None
    max_prompt_chars: int = 4000
    min_frames: int = 5  # one latent frame is a still
    umt5: UMT5Shapes = UMT5Shapes()
    vae_part: str = "wan2.1-vae"
    text_part: str = "umt5-xxl"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the weights and the arithmetic
    weights: Path | None = field(default=None)  # folder of the packaged weights, if packaged


_VAE = VAEConfig()
# The same shapes with the linear branch (TurboDiffusion) and without it (as Wan was published).
_SHAPES = {
    "1.3b": TransformerConfig(dim=1536, ffn_dim=8960, heads=12, layers=30),
    "14b": TransformerConfig(dim=5120, ffn_dim=13824, heads=40, layers=40),
    "a14b": TransformerConfig(dim=5120, ffn_dim=13824, heads=40, layers=40, in_channels=36),
}
# Chinese, because Wan's captions are: over-bright, overexposed, static, blurred, subtitles, low quality,
# JPEG artefacts, ugly, mutilated, extra fingers, deformed, cluttered background, walking backwards.
_NEGATIVE = (
    "色彩过艳，曝光过度，画面静止，模糊不清，带有字幕，质量低下，"
    "压缩痕迹，丑陋，残缺，手指过多，畸形，背景杂乱，倒着走"
)


def _wan(name: str, task: Literal["t2v", "i2v"], shapes: str, size: tuple[int, int], **more: Any) -> Preset:
    return Preset(
        name=name, task=task, vae=_VAE, text_encoder="umt5-xxl", size=size, min_side=256, max_side=1280,
        max_pixels=1280 * 720, frames=81, max_frames=81, fps=16,
        transformer=_SHAPES[shapes] if not more["distilled"] else replace(_SHAPES[shapes], sla=True), **more,
    )  # fmt: skip


def _turbo(
    name: str, task: Literal["t2v", "i2v"], shapes: str, size: tuple[int, int], sigma_max: float, **more: Any
) -> Preset:
    return _wan(
        name, task, shapes, size, steps=4, max_steps=4, distilled=True, topk=0.1, sigma_max=sigma_max, **more
    )


def _base(
    name: str, task: Literal["t2v", "i2v"], shapes: str, size: tuple[int, int], steps: int, **more: Any
) -> Preset:
    return _wan(
        name, task, shapes, size, steps=steps, max_steps=100, distilled=False, negative_prompt=_NEGATIVE, **more
    )


def demo(task: Literal["t2v", "i2v"]) -> Preset:
    """The small model that this project trained (model/training), in 8 bits beside the code."""
    return Preset(
        name=f"demo-{task}", task=task,
        transformer=TransformerConfig(
            dim=256, ffn_dim=576, heads=4, layers=5, text_dim=128, text_len=48, sla=True,
            in_channels=16 if task == "t2v" else 36,
        ),
        vae=VAEConfig(dim=16, res_blocks=1, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16),
        text_encoder="demo", size=(192, 192), min_side=192, max_side=192, max_pixels=192 * 192,
        frames=33, min_frames=33, max_frames=33, fps=16, steps=4, max_steps=4, distilled=True,
        max_prompt_chars=200, dtype="float32", topk=0.25,  # 5 of 21 key blocks, where a tenth would be 2
        weights=Path(__file__).resolve().parent.parent / "demo" / "weights",
    )  # fmt: skip


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        demo("t2v"),
        demo("i2v"),
        # TurboDiffusion: 1-4 steps, sparse-linear attention.
        _turbo("wan2.1-t2v-1.3b", "t2v", "1.3b", (832, 480), 80.0),
        _turbo("wan2.1-t2v-14b", "t2v", "14b", (1280, 720), 80.0),
        _turbo("wan2.2-i2v-a14b", "i2v", "a14b", (1280, 720), 200.0, boundary=0.9),
        # As Wan was published: the quality reference, 10 to 25 times as slow.
        _base("wan2.1-t2v-1.3b-base", "t2v", "1.3b", (832, 480), 50, guidance=6.0, shift=8.0),
        _base("wan2.1-t2v-14b-base", "t2v", "14b", (1280, 720), 50, guidance=5.0, shift=5.0),
        _base(
            "wan2.2-i2v-a14b-base", "i2v", "a14b", (1280, 720), 40, guidance=3.5, shift=5.0, boundary=0.9
        ),
    )
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset called `name`. Raises ModelError naming the ones there are."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ModelError(f"unknown model {name!r}", f"choose one of: {', '.join(PRESETS)}") from None
