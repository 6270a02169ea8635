"""Stage 2: encode a pool of drawn clips once. `python -m model.training.latents --out runs/demo --clips whole`"""

import argparse
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.demo import captions, world
from model.demo.tokenizer import PAD, tokenize
from model.training.run import Log
from model.training.setup import CLIPS, SHAPES, VAE, Clips
from model.training.vae import channels_last
from model.wan.vae import WanVAE

CAPTIONS = 4  # wordings a clip


def load_vae(path: Path, device: torch.device | str) -> WanVAE:
    state = {k: v.float() for k, v in load_file(path).items() if k != "preview"}
    vae = WanVAE(VAE)
    vae.load_state_dict(state)
    return vae.to(device).eval()


def token_rows(scene: world.Scene, rng: random.Random) -> list[list[int]]:
    length = SHAPES["t2v"].text_len
    rows = [tokenize(captions.caption(scene, rng), length).ids for _ in range(CAPTIONS)]
    return [row + [PAD] * (length - len(row)) for row in rows]


@torch.no_grad()
def encode_pool(
    vae: WanVAE, clips: Clips, count: int, images: bool, seed: int, device: torch.device
) -> dict[str, Tensor]:
    """latents bf16 [n, z, t, h, w] and tokens uint8 [n, CAPTIONS, text_len], no held-out combination.

    With `images` also images [n, z, t, h, w]: the latent of each first frame followed by zero frames.
    """
    rng = random.Random(seed)
    kept: dict[str, list[Tensor]] = {"latents": [], "tokens": []} | ({"images": []} if images else {})
    batch = min(count, 64 if clips.side > 128 else 256)
    encode = torch.compile(vae.encode) if device.type == "cuda" else vae.encode

    def encoded(video: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            latent = encode(video.contiguous(memory_format=torch.channels_last_3d))
        return latent.bfloat16().contiguous().cpu()

    for _ in range(count // batch):
        scenes = [world.any_scene(rng, held=False) for _ in range(batch)]
        video = world.draw(scenes, clips.frames, clips.side, device)
        kept["latents"].append(encoded(video))
        if images:
            video[:, :, 1:] = 0
            kept["images"].append(encoded(video))
        kept["tokens"].append(torch.tensor([token_rows(s, rng) for s in scenes]).byte())
    return {name: torch.cat(parts) for name, parts in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", choices=CLIPS, required=True)
    parser.add_argument("--count", type=int, default=24576)
    parser.add_argument("--images", action="store_true", help="first frames too, for image-to-video")
    parser.add_argument("--vae", type=Path, help="default: the run's")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    vae = load_vae(args.vae or args.out / "vae.safetensors", device)
    channels_last(vae)
    pool = encode_pool(vae, CLIPS[args.clips], args.count, args.images, args.seed, device)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(pool, args.out / f"pool-{args.clips}.safetensors")
    log = Log(args.out / "latents.jsonl")
    log(stage="latents done", size=args.clips, clips=len(pool["latents"]), s=time.monotonic() - started,
        mean=float(pool["latents"].float().mean()), std=float(pool["latents"].float().std()))  # fmt: skip


if __name__ == "__main__":
    main()
