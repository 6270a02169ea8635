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
from model.training.setup import CLIPS, TEXT_TO_VIDEO, VAE, Clips
from model.training.vae import channels_last
from model.wan.vae import WanVAE

CAPTIONS = 4  # wordings a clip


def load_vae(path: Path, device: torch.device) -> WanVAE:
    state = {k: v.float() for k, v in load_file(path).items() if k != "preview"}
    vae = WanVAE(VAE)
    vae.load_state_dict(state)
    return vae.to(device).eval()


def token_rows(scene: world.Scene, rng: random.Random) -> list[list[int]]:
    length = TEXT_TO_VIDEO.text_len
    rows = [tokenize(captions.caption(scene, rng), length).ids for _ in range(CAPTIONS)]
    return [row + [PAD] * (length - len(row)) for row in rows]


@torch.no_grad()
def encode_pool(vae: WanVAE, clips: Clips, count: int, seed: int, device: torch.device) -> dict[str, Tensor]:
    """latents bf16 [n, z, t, h, w] and tokens uint8 [n, CAPTIONS, text_len], no held-out combination."""
    rng = random.Random(seed)
    latents, tokens = [], []
    batch = min(count, 64 if clips.side > 128 else 256)
    encode = torch.compile(vae.encode) if device.type == "cuda" else vae.encode
    for _ in range(count // batch):
        scenes = [world.any_scene(rng, held=False) for _ in range(batch)]
        video = world.draw(scenes, clips.frames, clips.side, device)
        with torch.autocast(device.type, torch.bfloat16):
            video = video.contiguous(memory_format=torch.channels_last_3d)
            latents.append(encode(video).bfloat16().contiguous())
        tokens.append(torch.tensor([token_rows(s, rng) for s in scenes]).byte())
    return {"latents": torch.cat(latents).cpu(), "tokens": torch.cat(tokens)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", choices=CLIPS, required=True)
    parser.add_argument("--count", type=int, default=24576)
    parser.add_argument("--vae", type=Path, help="default: the run's")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    vae = load_vae(args.vae or args.out / "vae.safetensors", device)
    channels_last(vae)
    pool = encode_pool(vae, CLIPS[args.clips], args.count, args.seed, device)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(pool, args.out / f"pool-{args.clips}.safetensors")
    log = Log(args.out / "latents.jsonl")
    log(stage="latents done", size=args.clips, clips=len(pool["latents"]), s=time.monotonic() - started,
        mean=float(pool["latents"].float().mean()), std=float(pool["latents"].float().std()))  # fmt: skip


if __name__ == "__main__":
    main()
