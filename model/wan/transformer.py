"""The Wan diffusion transformer: latent patches in, velocity out (Wan2.1; DiT, Peebles & Xie 2023)."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels import switch
from kernels.elementwise import reference as elementwise_reference
from kernels.elementwise.reference import Affine, Modulation
from kernels.quantized import FP8, Rows
from model.wan.config import TransformerConfig
from model.wan.linear import Linear8, together
from model.wan.prompt import Keys, LastUsed, Prompt, distinct_rows, keys_of, tensors_of
from model.wan.recording import BYTES, Recordings, pays


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
        self._prompts = LastUsed[Prompt](2)  # with guidance a step asks twice
        self.recordings = Recordings()

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Predict the velocity.

        latent: [b, in_channels, t, h, w], h and w even. timestep: [b], 0..1000.
        text: [b, text_len, text_dim], rows past the prompt zero. Returns [b, out_channels, t, h, w]
        in the latent's dtype.
        """
        ops = switch.elementwise(latent)
        grid = tuple(n // p for n, p in zip(latent.shape[2:], self.config.patch, strict=True))
        if ops is elementwise_reference:
            texts = [self.text_embedding(text)] * len(self.blocks)
            return self.velocity(
                ops, latent, timestep, texts, rope_table(grid, self.config.head_dim, latent.device)
            )
        prompt = self.prompt(text)
        keys = [block.cross_attn.kept_keys(ops, prompt) for block in self._blocks()]
        rope = kept_rope_table(grid, self.config.head_dim, latent.device)
        size = len(latent) * math.prod(grid) * self.config.dim
        if not pays(latent, size):
            return self.velocity(ops, latent, timestep, keys, rope)

        def run(given: Sequence[Tensor]) -> Tensor:
            latent, timestep, rope, *parts = given
            return self.velocity(ops, latent, timestep, keys_of(parts), rope)

        kind = (
            latent.shape, latent.dtype, latent.device, timestep.shape, timestep.dtype, prompt.rows.shape,
            self.topk,
        )  # fmt: skip
        with torch.cuda.device_of(latent):
            return self.recordings.step(
                run, [latent, timestep], [rope, *tensors_of(keys)], kind, self._weights, size * BYTES
            )

    def velocity(
        self, ops: ModuleType, latent: Tensor, timestep: Tensor, texts: Sequence[Tensor | Keys], rope: Tensor
    ) -> Tensor:
        """`forward`, once it is known who computes; it never waits for the card.

        texts: what each block attends to, the embedded text or its keys of it.
        """
        grid = tuple(n // p for n, p in zip(latent.shape[2:], self.config.patch, strict=True))
        x = self.patch_embedding(patchify(latent, self.config.patch))  # [b, L, dim]
        # Time is float32 inside a bf16 model, as in training: its MLP says in which dtype it computes.
        sinusoid = timestep_embedding(timestep, self.config.freq_dim)
        e = self.time_embedding(sinusoid.to(next(self.time_embedding.parameters()).dtype))
        modulation = self.time_projection(e).float().unflatten(1, (6, -1))  # [b, 6, dim]
        y = gate = None  # what the last block leaves to be added to x, so that the next norm reads x once
        for block, own in zip(self._blocks(), texts, strict=True):
            x, y, gate = block(ops, x, y, gate, modulation, own, rope, self.topk)
        return unpatchify(self.head(ops, x, y, gate, e.float()), grid, self.config.patch, self.config.out_channels)

    def _blocks(self) -> "Iterator[Block]":
        return cast("Iterator[Block]", iter(self.blocks))

    def _weights(self) -> Iterator[Tensor]:
        yield from self.parameters()
        yield from self.buffers()

    def prompt(self, text: Tensor) -> Prompt:
        """The rows of text that differ, embedded, and room for their keys; kept for the next step."""
        parts = [self.text_embedding, *(part for block in self._blocks() for part in block.cross_attn.of_text())]
        weights = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]

        def embed() -> Prompt:
            rows, bias = distinct_rows(text)
            return Prompt(self.text_embedding(rows), bias)

        return self._prompts.get(text, weights, embed)


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

    def forward(
        self,
        ops: ModuleType,
        x: Tensor,
        y: Tensor | None,
        gate: Tensor | None,
        e: Tensor,
        text: Tensor | Keys,
        rope: Tensor,
        topk: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x + y * gate through the block, as x, y and gate again: whoever reads x next adds them then.

        ops: kernels.elementwise's reference or fused. x, y [b, L, dim]; gate [b, dim] float32; e [b, 6, dim]
        float32; text [b, n, dim], or this block's keys of it.
        """
        e = self.modulation + e  # in float32: that is e's dtype
        shift1, scale1, gate1, shift2, scale2, gate2 = e.unbind(1)  # each [b, dim]
        b = len(x)
        x, h = ops.gate_residual_norm(x, y, gate, Modulation(scale1, shift1, self.eps), codes_of(self.self_attn.q))
        y = self.self_attn(ops, h, b, rope, topk)
        norm3 = Affine(self.norm3.weight, self.norm3.bias, self.eps)
        x, h = ops.gate_residual_norm(x, y, gate1, norm3, codes_of(self.cross_attn.q))
        y = self.cross_attn(ops, h, b, text)
        x, h = ops.gate_residual_norm(x, y, None, Modulation(scale2, shift2, self.eps), codes_of(self.ffn[0]))
        return x, self.feed_forward(ops, h, b), gate2

    def feed_forward(self, ops: ModuleType, x: Tensor | Rows, batch: int) -> Tensor:
        up, down = self.ffn[0], self.ffn[2]
        if isinstance(x, Rows) and isinstance(up, Linear8) and up.reach is not None and codes_of(down) == FP8:
            return apply(down, up.gelu_rows(x), batch)  # the hidden rows are never met in 16 bits
        return apply(down, ops.gelu(apply(up, x, batch), codes_of(down)), batch)


def codes_of(layer: nn.Module) -> torch.dtype | None:
    """In which 8-bit dtype a layer takes its input; None: as it comes."""
    dtype = layer.weight.dtype
    return dtype if isinstance(dtype, torch.dtype) and dtype.itemsize == 1 else None


def apply(layer: nn.Module, x: Tensor | Rows, batch: int) -> Tensor:
    """A linear layer of [b, L, in], or of Rows [b * L, in]. Returns [b, L, out]."""
    y = layer(x)
    return y.unflatten(0, (batch, -1)) if y.dim() == 2 else y


class Attention(nn.Module):
    """q, k, v, o projections with RMSNorm of q and k over the full dim, before the head split."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.eps = config.eps
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)

    def out(self, ops: ModuleType, y: Tensor) -> Tensor:
        """The o projection of heads [b, L, heads, head_dim]."""
        codes, rows = codes_of(self.o), y.flatten(2)
        return apply(self.o, rows if codes is None else ops.quantize(rows, codes), len(y))


class SelfAttention(Attention):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.proj_l = nn.Linear(config.head_dim, config.head_dim) if config.sla else None

    def forward(self, ops: ModuleType, x: Tensor | Rows, batch: int, rope: Tensor, topk: float | None) -> Tensor:
        q, k, v = self.projections(x, batch)
        q, k = ops.rms_norm_rope(q, k, self.norm_q.weight, self.norm_k.weight, rope, self.heads, self.eps)
        v = v.unflatten(2, (self.heads, -1))
        if topk is None:
            return self.out(ops, dense_attention(q, k, v))
        assert self.proj_l is not None
        return self.out(ops, switch.sparse_linear_attention(q, k, v, self.proj_l.weight, self.proj_l.bias, topk))

    def projections(self, x: Tensor | Rows, batch: int) -> tuple[Tensor, ...]:
        """q, k, v [b, L, dim]; in 8 bits slices of one product."""
        joint = together(self.q, self.k, self.v)
        if joint is None:
            return tuple(apply(layer, x, batch) for layer in (self.q, self.k, self.v))
        return apply(joint, x, batch).chunk(3, dim=2)


class CrossAttention(Attention):
    def forward(self, ops: ModuleType, x: Tensor | Rows, batch: int, text: Tensor | Keys) -> Tensor:
        # No mask: padded text rows are zeros and take part, as in training.
        keys = text if isinstance(text, Keys) else Keys(*self.keys(ops, text))
        q = apply(self.q, x, batch)
        y = ops.attend_prompt(
            q, self.norm_q.weight, self.eps, keys.k, keys.v, keys.bias, keys.reach, codes_of(self.o)
        )
        return apply(self.o, y, batch)

    def keys(self, ops: ModuleType, text: Tensor) -> tuple[Tensor, Tensor]:
        """k and v [b, n, heads, head_dim] of text [b, n, dim]."""
        k = ops.rms_norm(self.k(text), self.norm_k.weight, self.eps).unflatten(2, (self.heads, -1))
        return k, self.v(text).unflatten(2, (self.heads, -1))

    def kept_keys(self, ops: ModuleType, prompt: Prompt) -> Keys:
        if self not in prompt.keys:
            k, v = self.keys(ops, prompt.rows)
            prompt.keys[self] = Keys(k, v, prompt.bias, v.float().abs().amax((1, 2, 3)))
        return prompt.keys[self]

    def of_text(self) -> tuple[nn.Module, ...]:
        """What the keys are made with."""
        return self.k, self.v, self.norm_k


class Head(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.out_channels * math.prod(config.patch))
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, ops: ModuleType, x: Tensor, y: Tensor | None, gate: Tensor | None, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e.unsqueeze(1)).unbind(1)  # each [b, dim]
        return self.head(ops.gate_residual_norm(x, y, gate, Modulation(scale, shift, self.eps))[1])


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


@lru_cache(maxsize=2)
def kept_rope_table(grid: tuple[int, ...], head_dim: int, device: torch.device) -> Tensor:
    """`rope_table`, the same for every step and render of a size."""
    return rope_table(grid, head_dim, device)


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
