"""The Wan diffusion transformer: latent patches in, velocity out (Wan2.1; DiT, Peebles & Xie 2023)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels import switch
from model.wan.config import TransformerConfig


class WanTransformer(nn.Module):
    """Velocity of a noisy latent at a timestep, given text.

    Parameter names are those of the official checkpoints, so that a state dict loads as it is.
    `topk` is the share of key blocks that self-attention keeps (None: dense attention); it needs
    a config with `sla`.
    """

    def __init__(self, config: TransformerConfig, topk: float | None = None) -> None:
        super().__init__()
        if topk is not None and not config.sla:
            raise ValueError("sparse-linear attention needs a config with proj_l (sla=True)")
        self.config = config
        self.topk = topk
        dim = config.dim
        self.patch_embedding = nn.Linear(config.in_channels * math.prod(config.patch), dim)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Predict the velocity.

        latent: [b, in_channels, t, h, w], h and w even. timestep: [b], 0..1000.
        text: [b, text_len, text_dim], rows past the prompt zero. Returns [b, out_channels, t, h, w]
        in the latent's dtype.
        """
        grid = tuple(n // p for n, p in zip(latent.shape[2:], self.config.patch, strict=True))
        x = self.patch_embedding(patchify(latent, self.config.patch))  # [b, L, dim]
        # Time is float32 inside a bf16 model, as in training: its MLP says in which dtype it computes.
        sinusoid = timestep_embedding(timestep, self.config.freq_dim)
        e = self.time_embedding(sinusoid.to(next(self.time_embedding.parameters()).dtype))
        modulation = self.time_projection(e).float().unflatten(1, (6, -1))  # [b, 6, dim]
        text = self.text_embedding(text)
        rope = rope_table(grid, self.config.head_dim, x.device)
        for block in self.blocks:
            x = block(x, modulation, text, rope, self.topk)
        x = self.head(x, e.float())
        return unpatchify(x, grid, self.config.patch, self.config.out_channels)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward; the first and last are modulated by time."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, e: Tensor, text: Tensor, rope: Tensor, topk: float | None) -> Tensor:
        # x [b, L, dim], e [b, 6, dim] float32, text [b, n, dim]
        e = self.modulation.float() + e
        shift1, scale1, gate1, shift2, scale2, gate2 = e.unsqueeze(2).unbind(1)  # each [b, 1, dim]
        y = self.self_attn(modulate(x, shift1, scale1, self.eps), rope, topk)
        x = x + (y * gate1).to(x.dtype)
        x = x + self.cross_attn(self.norm3(x), text)
        y = self.ffn(modulate(x, shift2, scale2, self.eps))
        return x + (y * gate2).to(x.dtype)


class Attention(nn.Module):
    """q, k, v, o projections with RMSNorm of q and k over the full dim, before the head split."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.norm_q(self.q(x)).unflatten(2, (self.heads, -1))
        k = self.norm_k(self.k(context)).unflatten(2, (self.heads, -1))
        return q, k, self.v(context).unflatten(2, (self.heads, -1))  # [b, L, heads, head_dim]


class SelfAttention(Attention):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.proj_l = nn.Linear(config.head_dim, config.head_dim) if config.sla else None

    def forward(self, x: Tensor, rope: Tensor, topk: float | None) -> Tensor:
        q, k, v = self.project(x, x)
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        if topk is None:
            return self.o(dense_attention(q, k, v).flatten(2))
        assert self.proj_l is not None
        y = switch.sparse_linear_attention(q, k, v, self.proj_l.weight, self.proj_l.bias, topk)
        return self.o(y.flatten(2))


class CrossAttention(Attention):
    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        # No mask: padded text rows are zeros and take part, as in training.
        return self.o(dense_attention(*self.project(x, text)).flatten(2))


class Head(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.out_channels * math.prod(config.patch))
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + e.unsqueeze(1)).unsqueeze(2).unbind(1)
        return self.head(modulate(x, shift, scale, self.eps))


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine, then * (1 + scale) + shift in float32; back in x's dtype."""
    y = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (y * (1 + scale) + shift).to(x.dtype)


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention on [b, L, heads, head_dim]; same layout out."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """[cos, sin] of the timestep at `dim / 2` frequencies, computed in float64. [b] -> [b, dim] float32."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
    angles = timestep.double()[:, None] * torch.pow(10000.0, -exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def rope_table(grid: tuple[int, ...], head_dim: int, device: torch.device) -> Tensor:
    """Rotation angles as (cos, sin) for every token of a (t, h, w) grid in raster order.

    head_dim is split into t, h, w sections of d - 2 * (d // 6 * 2), d // 6 * 2 and d // 6 * 2 channels,
    each with its own frequencies (theta 1e4). Returns [2, L, 1, head_dim / 2] float32.
    """
    side = head_dim // 6 * 2
    sections = (head_dim - 2 * side, side, side)
    angles = []
    for axis, (n, channels) in enumerate(zip(grid, sections, strict=True)):
        exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels
        position = torch.arange(n, dtype=torch.float64, device=device)
        a = position[:, None] * torch.pow(10000.0, -exponents)  # [n, channels / 2]
        shape = [1, 1, 1, a.shape[1]]
        shape[axis] = n
        angles.append(a.view(shape).expand(*grid, -1))
    table = torch.cat(angles, dim=-1).flatten(0, 2)[:, None]
    return torch.stack([table.cos(), table.sin()]).float()


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved channel pairs of x [b, L, heads, head_dim]; float32 inside, x's dtype out."""
    cos, sin = table
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def patchify(latent: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """[b, c, t, h, w] -> [b, L, c * kt * kh * kw], tokens in (t, h, w) raster order."""
    b, c, t, h, w = latent.shape
    kt, kh, kw = patch
    x = latent.reshape(b, c, t // kt, kt, h // kh, kh, w // kw, kw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * kt * kh * kw)


def unpatchify(x: Tensor, grid: tuple[int, ...], patch: tuple[int, int, int], channels: int) -> Tensor:
    """The head's [b, L, kt * kh * kw * c] -> [b, c, t, h, w]."""
    t, h, w = grid
    kt, kh, kw = patch
    x = x.reshape(x.shape[0], t, h, w, kt, kh, kw, channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(x.shape[0], channels, t * kt, h * kh, w * kw)
