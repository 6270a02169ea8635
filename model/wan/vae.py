"""The Wan2.1 causal 3-D VAE: video <-> latent, 4x in time and 8x in space, streamed chunk by chunk."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.wan.config import VAEConfig

# What a stream remembers between chunks, by layer: the last frames that causal layers look back on.
Cache = dict[nn.Module, Tensor]
_CHUNK_PIXELS = 1 << 19


class WanVAE(nn.Module):
    """Parameter names are those of the official checkpoint. Latents are normalised channel by channel.

    Streaming and whole-clip forms are the same code: a layer looks back on what its cache holds, zeros
    at the start, so any chunk length gives the same frames.
    """

    mean: Tensor  # of the latent channels, [1, z, 1, 1, 1]
    std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        z = config.z_dim
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * z, 2 * z, 1)
        self.conv2 = CausalConv3d(z, z, 1)
        self.decoder = Decoder(config)
        shape = (1, z, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(config.latent_mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(config.latent_std).view(shape), persistent=False)

    def encode(self, video: Tensor) -> Tensor:
        """video [b, 3, 4k+1, h, w] in [-1, 1] -> normalised mean latent [b, z, k+1, h/8, w/8]."""
        mean, _ = self.moments(video)
        return (mean - self.mean.to(mean)) / self.std.to(mean)

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior, not normalised; each [b, z, k+1, h/8, w/8]."""
        cache: Cache = {}
        chunk = 16 if video[0, 0, 0].numel() <= 256 * 256 else 4  # bounds memory, changes nothing
        starts = [0, *range(chunk + 1, video.shape[2], chunk), video.shape[2]]
        chunks = [video[:, :, a:b] for a, b in itertools.pairwise(starts)]
        encoded = [self.conv1(self.encoder(chunk, cache), cache) for chunk in chunks]
        mean, log_variance = torch.cat(encoded, dim=2).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latent: Tensor) -> Tensor:
        """latent [b, z, k+1, h, w] -> video [b, 3, 4k+1, 8h, 8w], not clamped."""
        return self.decode_chunk(latent, {})

    def decode_chunk(self, latent: Tensor, cache: Cache) -> Tensor:
        """Decode the next latent frames of a stream whose past is in `cache` (which is updated)."""
        z = latent * self.std.to(latent) + self.mean.to(latent)
        return self.decoder(self.conv2(z, cache), cache)

    def stream(self, latent: Tensor, chunk: int | None = None) -> Iterator[Tensor]:
        """Frames as they are decoded, `chunk` latent frames at a time; clamped to [-1, 1].

        None: one, or as many as are half a million pixels. A CPU's convolution takes a path four times as slow
        for the tiny ones that a small video's single latent frame would make.
        """
        if chunk is None:
            chunk = max(1, _CHUNK_PIXELS // (4 * 64 * latent.shape[-2] * latent.shape[-1]))
        cache: Cache = {}
        for part in latent.split(chunk, dim=2):
            yield self.decode_chunk(part, cache).clamp(-1, 1)


class CausalConv3d(nn.Conv3d):
    """3-D convolution that sees the past only: kt - 1 frames before the first, zeros or the cache's."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int | tuple[int, int, int]) -> None:
        kt, kh, kw = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(in_channels, out_channels, (kt, kh, kw), padding=(0, kh // 2, kw // 2))
        self.past = kt - 1

    def forward(self, x: Tensor, cache: Cache) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.past:
            past = cache.get(self)
            x = F.pad(x, (0, 0, 0, 0, self.past, 0)) if past is None else torch.cat([past, x], dim=2)
            cache[self] = x[:, :, -self.past :]
        return super().forward(x)


class RMSNorm(nn.Module):
    """Normalise over channels, * sqrt(C) * gamma."""

    def __init__(self, channels: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale * self.gamma


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # A container for names only: its layers need the cache. Index 5 was dropout in training.
        self.residual = nn.Sequential(
            RMSNorm(in_channels),
            nn.SiLU(),
            CausalConv3d(in_channels, out_channels, 3),
            RMSNorm(out_channels),
            nn.SiLU(),
            nn.Identity(),
            CausalConv3d(out_channels, out_channels, 3),
        )
        self.shortcut = CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        norm1, act, conv1, norm2, _, _, conv2 = self.residual
        y = conv2(act(norm2(conv1(act(norm1(x)), cache))), cache)
        return y + (x if self.shortcut is None else self.shortcut(x, cache))


class FrameAttention(nn.Module):
    """Single-head attention over the pixels of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, spatial_dims=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        b, _, t, h, w = x.shape
        frames = x.transpose(1, 2).flatten(0, 1)  # [b * t, c, h, w]
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).unsqueeze(1)
        y = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))  # [b * t, 1, h * w, c]
        y = self.proj(y.squeeze(1).transpose(1, 2).unflatten(2, (h, w)))
        return x + y.unflatten(0, (b, t)).transpose(1, 2)


class Downsample(nn.Module):
    """Halve height and width; with `temporal`, also frames after the first."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        past = cache.get(self)
        cache[self] = x[:, :, -1:]
        if past is not None:
            return self.time_conv(torch.cat([past, x], dim=2))
        first = x[:, :, :1]  # passes through as it is
        return first if x.shape[2] == 1 else torch.cat([first, self.time_conv(x)], dim=2)


class Upsample(nn.Module):
    """Double height and width and halve channels; with `temporal`, also double frames after the first."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"),
            nn.Conv2d(channels, channels // 2, 3, padding=1),
        )
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        if self.time_conv is not None:
            started = self in cache
            cache[self] = x[:, :, :0]
            first, rest = (x[:, :, :0], x) if started else (x[:, :, :1], x[:, :, 1:])
            if rest.shape[2]:
                rest = self.time_conv(rest, cache).unflatten(1, (2, -1))  # [b, 2, c, t, h, w]
                rest = rest.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # [b, c, 2t, h, w]
            x = torch.cat([first, rest], dim=2)
        return per_frame(self.resample, x)


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = CausalConv3d(3, widths[0], 3)
        layers: list[nn.Module] = []
        for level, (width_in, width) in enumerate(itertools.pairwise(widths)):
            for i in range(config.res_blocks):
                layers.append(ResidualBlock(width_in if i == 0 else width, width))
            if level < len(config.temporal_downsample):
                layers.append(Downsample(width, config.temporal_downsample[level]))
        self.downsamples = nn.ModuleList(layers)
        self.middle = middle(widths[-1])
        self.head = nn.Sequential(RMSNorm(widths[-1]), nn.SiLU(), CausalConv3d(widths[-1], 2 * config.z_dim, 3))

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = self.conv1(x, cache)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, cache)
        norm, act, conv = self.head
        return conv(act(norm(x)), cache)


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.dim * m for m in (config.dim_mult[-1], *config.dim_mult[::-1])]
        temporal = config.temporal_downsample[::-1]
        self.conv1 = CausalConv3d(config.z_dim, widths[0], 3)
        self.middle = middle(widths[0])
        layers: list[nn.Module] = []
        for level, (width_in, width) in enumerate(itertools.pairwise(widths)):
            first_in = width_in if level == 0 else width_in // 2  # upsampling halved the channels
            for i in range(config.res_blocks + 1):
                layers.append(ResidualBlock(first_in if i == 0 else width, width))
            if level < len(temporal):
                layers.append(Upsample(width, temporal[level]))
        self.upsamples = nn.ModuleList(layers)
        self.head = nn.Sequential(RMSNorm(widths[-1]), nn.SiLU(), CausalConv3d(widths[-1], 3, 3))

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = self.conv1(x, cache)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, cache)
        norm, act, conv = self.head
        return conv(act(norm(x)), cache)


def middle(width: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width)])


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2-D layer to every frame of x [b, c, t, h, w]."""
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
