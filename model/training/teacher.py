"""Stage 3: train the demo denoiser by flow matching. `python -m model.training.teacher --out runs/demo`

Rectified flow (Liu et al. 2023; Lipman et al. 2023): x_t = (1 - t) x0 + t noise, the target is noise - x0;
t is logit-normal, moved towards noise (Esser et al. 2024). A tenth of the captions is dropped, for guidance
(Ho & Salimans 2022).
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from model.training.denoiser import Denoiser, Pool, initialise, noise_levels, over, resume_wider
from model.training.look import look
from model.training.run import Log, Schedule, resume, train
from model.training.setup import CLIPS, SHAPES, Clips

DROPPED = 0.1  # share of captions


def flow_loss(model: Denoiser, pool: Pool, clips: Clips, batch: int) -> Tensor:
    device = pool.latents.device
    drawn = pool.draw(batch)
    t = noise_levels(batch, clips.shift, device)
    keep = (torch.rand(batch, device=device) > DROPPED).float()
    noise = torch.randn_like(drawn.x0)
    x = torch.lerp(drawn.x0, noise, over(t))
    with torch.autocast(device.type, torch.bfloat16):
        velocity = model(x, t, model.text(drawn.ids, keep), drawn.condition)
    return (velocity - (noise - drawn.x0)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=SHAPES, default="t2v")
    parser.add_argument("--clips", choices=CLIPS, default="whole")
    parser.add_argument("--init", type=Path, help="weights to start from where the run has none yet")
    parser.add_argument("--batch", type=int, help="default: by the size of the clips")
    parser.add_argument("--seed", type=int, default=1)
    Schedule.arguments(parser, seconds=700, lr=1.5e-3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips = CLIPS[args.clips]
    batch = args.batch or clips.batch
    path = args.out / f"teacher-{args.task}.safetensors"
    model = Denoiser(SHAPES[args.task])
    initialise(model)
    resumed = resume(model, path)
    if not resumed and args.init and args.task == "i2v":
        resume_wider(model, args.init)
    elif not resumed and args.init:
        resume(model, args.init)
    model.to(device)
    if args.task == "i2v":
        model.text_encoder.requires_grad_(False)  # text-to-video's: both models read with it
    pool = Pool(args.out / f"pool-{args.clips}.safetensors", args.task == "i2v", device)
    log = Log(args.out / "teacher.jsonl")
    log(stage="teacher", task=args.task, clips=args.clips, resumed=resumed, init=str(args.init), seed=args.seed,
        seconds=args.seconds, lr=args.lr, batch=batch, pool=len(pool), muon=not args.adamw,
        parameters=sum(x.numel() for x in model.parameters()))  # fmt: skip
    if not args.no_compile:
        model.compile_blocks()
    steps = train(model, lambda: flow_loss(model, pool, clips, batch), Schedule.of(args), path, log)
    log(stage="teacher done", task=args.task, clips=args.clips, steps=steps, samples=steps * batch)
    if args.clips == "whole":
        look(args.out, "teacher", args.task, args.look, log)


if __name__ == "__main__":
    main()
