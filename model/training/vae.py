"""Stage 1: train the demo VAE on drawn clips. `python -m model.training.vae --out runs/demo --seconds 400`"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.demo import world
from model.training.run import EMA, Budget, Log, resume, save_weights
from model.training.setup import CLIPS, VAE
from model.training.sheets import save_sheet
from model.wan.vae import WanVAE

# Whole clips: a decoder that never saw the frame's borders and its whole length falls apart there.
BATCH = 2
CLIP = CLIPS["whole"]
# Deviation of the noise added to the latents that are decoded: a denoiser's latents are never exact.
LATENT_NOISE = 0.05


def batches(rng: random.Random, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (video [b, 3, t, h, w], weight of each pixel's error [b, 1, t, h, w])."""
    while True:
        scenes = [world.any_scene(rng) for _ in range(16 * BATCH)]
        video, mask = world.draw_with_mask(scenes, CLIP.frames, CLIP.side, device)
        # The objects, because the background is most of a clip; the first frame, because a latent frame of its
        # own tells the causal layers least.
        weight = 1 + 4 * mask
        weight[:, :, 0] *= 3
        for rows in torch.arange(len(scenes)).split(BATCH):
            yield video[rows].contiguous(memory_format=torch.channels_last_3d), weight[rows]


def loss_terms(vae: WanVAE, video: Tensor, weight: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(reconstruction, KL). noise: [2, *latent]."""
    mean, log_variance = vae.moments(video)
    log_variance = log_variance.float().clamp(-20, 4)
    mean = mean.float()
    latent = mean + (0.5 * log_variance).exp() * noise[0] + LATENT_NOISE * noise[1]
    error = vae.decode(latent).float() - video
    reconstruction = (weight * (error.abs() + 2 * error.square())).mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return reconstruction, kl


def channels_last(vae: WanVAE) -> None:
    """Convolution weights in NDHWC / NHWC: a third faster here than the default layout."""
    formats = {5: torch.channels_last_3d, 4: torch.channels_last}
    for parameter in vae.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])


@torch.no_grad()
def measure(vae: WanVAE, device: torch.device, out: Path | None = None) -> dict[str, float]:
    """PSNR in dB of fresh whole clips: all, the shape's pixels, first, middle and last frame."""
    scenes = [world.any_scene(random.Random(10_000 + i)) for i in range(32)]
    video, mask = world.draw_with_mask(scenes, CLIP.frames, CLIP.side, device)
    decoded = torch.cat([vae.decode(vae.encode(v)) for v in video.split(4)]).float().clamp(-1, 1)
    error = ((decoded - video) / 2).square()

    def psnr(mse: Tensor) -> float:
        return -10 * float(mse.clamp_min(1e-10).log10())

    if out is not None:
        save_sheet(out, torch.cat([video[:8], decoded[:8]], dim=3))
    middle = CLIP.frames // 2
    return {
        "psnr": psnr(error.mean()),
        "psnr_shape": psnr((error * mask).sum() / (3 * mask.sum())),
        "psnr_first": psnr(error[:, :, 0].mean()),
        "psnr_middle": psnr(error[:, :, middle].mean()),
        "psnr_last": psnr(error[:, :, -1].mean()),
    }


@torch.no_grad()
def fold_latent_statistics(vae: WanVAE, device: torch.device, batches: int = 16) -> None:
    """Scale the last encoder and first decoder layer so that latents have mean 0 and deviation 1."""
    means, squares = [], []
    for i in range(batches):
        scenes = [world.any_scene(random.Random(20_000 + 16 * i + j)) for j in range(16)]
        latent = vae.encode(world.draw(scenes, CLIP.frames, CLIP.side, device)).float()
        means.append(latent.mean(dim=(0, 2, 3, 4)))
        squares.append(latent.square().mean(dim=(0, 2, 3, 4)))
    mean = torch.stack(means).mean(0)
    std = (torch.stack(squares).mean(0) - mean.square()).sqrt().clamp_min(1e-4)
    z = VAE.z_dim
    assert vae.conv1.bias is not None
    assert vae.conv2.bias is not None
    vae.conv1.weight[:z] /= std.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:z] = (vae.conv1.bias[:z] - mean) / std
    vae.conv2.bias += vae.conv2.weight.flatten(1) @ mean
    vae.conv2.weight *= std.view(1, -1, 1, 1, 1)


@torch.no_grad()
def fit_preview(vae: WanVAE, device: torch.device) -> Tensor:
    """Least squares from a latent pixel to its mean colour: [z + 1, 3], the last row is the constant."""
    scenes = [world.any_scene(random.Random(30_000 + i)) for i in range(48)]
    video = world.draw(scenes, CLIP.frames, CLIP.side, device)
    latent = torch.cat([vae.encode(v) for v in video.split(4)]).float()
    first, rest = video[:, :, :1], video[:, :, 1:]
    rest = rest.unflatten(2, (-1, 4)).mean(3)  # four frames share a latent frame
    colour = F.avg_pool3d(torch.cat([first, rest], dim=2), (1, 8, 8))
    a = latent.movedim(1, -1).flatten(0, -2)
    a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
    return torch.linalg.lstsq(a.double().cpu(), colour.movedim(1, -1).flatten(0, -2).double().cpu()).solution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--init", type=Path, help="weights to start from where the run has none yet")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--cosine-from", type=float, default=0.6, help="share of the time at full rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = WanVAE(VAE).to(device)
    resumed = resume(vae, args.out / "vae-raw.safetensors") or (args.init and resume(vae, args.init))
    channels_last(vae)
    torch.backends.cudnn.benchmark = True
    log = Log(args.out / "vae.jsonl")
    log(stage="vae", resumed=resumed, seed=args.seed, seconds=args.seconds, lr=args.lr)
    ema = EMA(vae, 0.999)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0,
                                  fused=device.type == "cuda")  # fmt: skip
    terms = loss_terms if args.no_compile else torch.compile(loss_terms)
    rng = random.Random(args.seed + (1 if resumed else 0))
    budget = Budget(args.seconds, warmup_steps=100, cosine_from=args.cosine_from)
    autocast = torch.autocast(device.type, torch.bfloat16)
    grid = (2, BATCH, *CLIP.latent)
    source = batches(rng, device)
    while (progress := budget.progress) < 1:
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate(args.lr, progress)
        video, weight = next(source)
        with autocast:
            reconstruction, kl = terms(vae, video, weight, torch.randn(grid, device=device))
        (reconstruction + 1e-6 * kl).backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(budget.step)
        budget.stepped()
        if budget.step % 500 == 0:
            log(
                step=budget.step,
                progress=progress,
                loss=float(reconstruction),
                kl=float(kl),
                grad=float(norm),
            )
    save_weights(args.out / "vae-raw.safetensors", ema.state_dict(), {"steps": str(budget.step)})
    vae.load_state_dict(ema.state_dict(), strict=True)
    vae.eval()
    fold_latent_statistics(vae, device)
    state = {k: v.detach().bfloat16().float() for k, v in vae.named_parameters()}
    vae.load_state_dict(state)  # measure what is shipped
    figures = measure(vae, device, args.out / "vae.png")
    state["preview"] = fit_preview(vae, device)
    save_weights(args.out / "vae.safetensors", state, {"steps": str(budget.step)})
    log(stage="vae done", steps=budget.step, **figures)


if __name__ == "__main__":
    main()
