"""Stage 2: encode a pool of drawn clips once. `python -m model.training.latents --out runs/demo`"""

import argparse
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.demo import world
from model.demo.tokenizer import PAD, tokenize
from model.training.run import Log
from model.wan.config import preset
from model.wan.vae import WanVAE

CAPTIONS = 4  # wordings a clip


def load_vae(out: Path, device: torch.device) -> WanVAE:
    state = {k: v.float() for k, v in load_file(out / "vae.safetensors").items() if k != "preview"}
    vae = WanVAE(preset("demo-t2v").vae)
    vae.load_state_dict(state)
    return vae.to(device).eval()


def token_rows(scene: world.Scene, rng: random.Random, text_len: int) -> list[list[int]]:
    rows = [tokenize(world.caption(scene, rng), text_len).ids for _ in range(CAPTIONS)]
    return [row + [PAD] * (text_len - len(row)) for row in rows]


@torch.no_grad()
def encode_pool(vae: WanVAE, clips: int, seed: int, device: torch.device) -> dict[str, Tensor]:
    """latents bf16 [n, z, t, h, w] and tokens uint8 [n, CAPTIONS, text_len], no held-out combination."""
    p = preset("demo-t2v")
    rng = random.Random(seed)
    latents, tokens = [], []
    batch = min(128, clips)
    encode = torch.compile(vae.encode) if device.type == "cuda" else vae.encode
    for _ in range(clips // batch):
        scenes = [world.random_scene(rng, held=False) for _ in range(batch)]
        video = world.draw(scenes, p.frames, p.size[0], device)
        with torch.autocast(device.type, torch.bfloat16):
            latents.append(encode(video).bfloat16().cpu())
        tokens.append(torch.tensor([token_rows(s, rng, p.transformer.text_len) for s in scenes]).byte())
    return {"latents": torch.cat(latents), "tokens": torch.cat(tokens)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=98304)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    pool = encode_pool(load_vae(args.out, device), args.clips, args.seed, device)
    save_file(pool, args.out / "pool.safetensors")
    log = Log(args.out / "latents.jsonl")
    log(stage="latents done", clips=len(pool["latents"]), s=time.monotonic() - started,
        mean=float(pool["latents"].float().mean()), std=float(pool["latents"].float().std()))  # fmt: skip


if __name__ == "__main__":
    main()
