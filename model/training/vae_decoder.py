"""Stage 4: sharpen the decoder, latents unchanged. `python -m model.training.vae_decoder --out runs/demo`

The denoiser learned the latents of the frozen encoder; the decoder may go on learning to draw them.
"""

import argparse
import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.training.latents import load_vae
from model.training.run import EMA, Budget, Log, save_weights
from model.training.vae import batches, channels_last, measure
from model.wan.vae import WanVAE

# Deviation of the noise added to the normalised latents: a denoiser's latents are never exact.
LATENT_NOISE = 0.05


def loss_of(vae: WanVAE, video: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        latent = vae.encode(video)
        latent = latent + LATENT_NOISE * torch.randn_like(latent)
    error = vae.decode(latent).float() - video
    return ((1 + 4 * mask) * (error.abs() + 2 * error.square())).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = load_vae(args.out, device).train()
    channels_last(vae)
    for frozen in (vae.encoder, vae.conv1):
        frozen.requires_grad_(False)
    live = [p for p in vae.parameters() if p.requires_grad]
    log = Log(args.out / "vae-decoder.jsonl")
    log(stage="vae decoder", seed=args.seed, seconds=args.seconds, lr=args.lr, noise=LATENT_NOISE)
    ema = EMA(vae, 0.999)
    optimizer = torch.optim.AdamW(live, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0,
                                  fused=device.type == "cuda")  # fmt: skip
    compiled = torch.compile(loss_of) if device.type == "cuda" else loss_of
    budget = Budget(args.seconds, warmup_steps=100, cosine_from=0.3)
    source = batches(random.Random(args.seed), device)
    while (progress := budget.progress) < 1:
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate(args.lr, progress)
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(vae, *next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(budget.step)
        budget.stepped()
        if budget.step % 500 == 0:
            log(step=budget.step, progress=progress, loss=float(loss.detach()))
    state = {k: v.bfloat16().float() for k, v in ema.state_dict().items()}
    vae.load_state_dict(state)
    figures = measure(vae.eval(), device, args.out / "vae-decoder.png")
    # The map from latent to preview colour belongs to the encoder and stays.
    state["preview"] = load_file(args.out / "vae.safetensors")["preview"]
    save_weights(args.out / "vae.safetensors", state, {"decoder_steps": str(budget.step)})
    log(stage="vae decoder done", steps=budget.step, **figures)


if __name__ == "__main__":
    main()
