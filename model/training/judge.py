"""How well a teacher follows held-out prompts: `python -m model.training.judge --out runs/demo --clips whole`"""

import argparse
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from model import sampler
from model.demo import captions, evaluate, probe, world
from model.training.latents import load_vae
from model.training.run import Log, resume
from model.training.setup import CLIPS, TEXT_TO_VIDEO, Clips
from model.training.sheets import save_sheet
from model.training.teacher import Teacher


@torch.inference_mode()
def sample(
    model: Teacher, prompts: list[str], clips: Clips, steps: int, guidance: float, seed: int, rcm: bool
) -> Tensor:
    """Latents [b, z, t, h, w]: Euler steps, or with `rcm` the few steps of the distilled sampler."""
    device = model.text_encoder.position_embedding.device
    generator = torch.Generator("cpu").manual_seed(seed)

    def fresh() -> Tensor:
        return torch.randn(len(prompts), *clips.latent, generator=generator).to(device)

    text = model.text_encoder.encode(prompts)
    text = torch.cat([text, torch.zeros_like(text)])

    def velocity(x: Tensor, t: float) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            time = torch.full((2 * len(x),), 1000 * t, device=device)
            both = model.transformer(torch.cat([x, x]).float(), time, text).float()
        return sampler.guided(*both.chunk(2), guidance)

    if rcm:
        samples = list(sampler.rcm(velocity, fresh(), steps, 80.0, fresh))
    else:
        samples = list(sampler.euler(velocity, fresh(), steps, clips.shift))
    return samples[-1].latent.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", choices=CLIPS, required=True)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--vae", type=Path, help="default: the run's")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--rcm", action="store_true")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips = CLIPS[args.clips]
    model = Teacher(TEXT_TO_VIDEO)
    assert resume(model, args.out / "teacher.safetensors")
    model.to(device).eval()
    vae = load_vae(args.vae or args.out / "vae.safetensors", device)
    trials = evaluate.held_out_trials(args.count)
    many = random.Random(5)
    extra = [captions.caption(s, many) for s in [world.random_group(many), world.random_pair(many)] * 2]
    videos = []
    for first in range(0, args.count + len(extra), 32):
        prompts = [*[t.prompt for t in trials], *extra][first : first + 32]
        latent = sample(model, prompts, clips, args.steps, args.guidance, first, args.rcm)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            decoded = torch.cat([vae.decode(x).float() for x in latent.split(8)]).clamp(-1, 1)
        videos.append(((decoded + 1) * 127.5).round().byte().cpu())
    video = torch.cat(videos)
    if args.sheet:
        chosen = torch.cat([video[:20], video[args.count :]]).float() / 127.5 - 1
        save_sheet(args.sheet, chosen, across=3)
    # Spawned: a forked child would wait for the threads that torch had in its parent.
    with ProcessPoolExecutor(
        mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        frames = [v.permute(1, 2, 3, 0).numpy() for v in video[: args.count]]
        readings = list(pool.map(probe.read, frames, chunksize=4))
    log = Log(args.out / "judge.jsonl")
    log(clips=args.clips, count=args.count, steps=args.steps, guidance=args.guidance, rcm=args.rcm,
        **evaluate.score(trials, readings))  # fmt: skip


if __name__ == "__main__":
    main()
