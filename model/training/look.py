"""What a stage's weights make of held-out prompts: shares that the probe reads, and a sheet to look at.

`python -m model.training.look --out runs/demo --stage teacher --task t2v`; every stage ends with it.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from model.demo import trials
from model.loading import Resident
from model.pipeline import Pipeline
from model.training.denoiser import loaded
from model.training.latents import load_vae
from model.training.run import Log
from model.training.setup import CLIPS, GUIDANCE, SHAPES, SIGMA_MAX, TOPK, VAE, Task
from model.training.sheets import save_sheet
from model.wan.config import demo

STEPS = {"teacher": 16, "guided": 16, "student": 4, "sparse": 4}
SHOWN = 12  # on the sheet


def pipeline_of(run: Path, stage: str, task: Task, device: torch.device | str) -> Pipeline:
    """A stage's weights with the run's VAE, in float32, as that stage is to be sampled."""
    clips, shapes = CLIPS["whole"], SHAPES[task]
    p = replace(
        demo(task), name=f"{task} {stage}", transformer=shapes, vae=VAE,
        size=(clips.side, clips.side), frames=clips.frames, steps=STEPS[stage],
        distilled=stage in ("student", "sparse"), topk=TOPK if stage == "sparse" else None, shift=clips.shift,
        sigma_max=SIGMA_MAX, guidance=GUIDANCE if stage == "teacher" else 1.0,
    )  # fmt: skip
    model = loaded(shapes, run / f"{stage}-{task}.safetensors", device)
    model.transformer.topk = p.topk
    preview = load_file(run / "vae.safetensors")["preview"].float().to(device)
    vae = load_vae(run / "vae.safetensors", device)
    return Pipeline(p, Resident(model.text_encoder, model.transformer, None, vae, preview, digest=""))


def look(run: Path, stage: str, task: Task, count: int, log: Log) -> None:
    """Log the shares of `count` held-out prompts that were followed; the first of them as STAGE-TASK.png."""
    if not count:
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = 32 if device.type == "cuda" else 1
    began = time.monotonic()
    pipeline = pipeline_of(run, stage, task, device)
    p = pipeline.preset
    asked = trials.held_out_trials(count, side=p.size[0] if task == "i2v" else None)
    clips = list(trials.render(pipeline, asked, p.steps, p.guidance, batch))
    shown = torch.from_numpy(np.stack(clips[:SHOWN])).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    save_sheet(run / f"{stage}-{task}.png", shown, across=2)
    found = trials.shares(asked, trials.read(clips))
    psnr = float(np.mean(trials.first_frame_psnr(asked, clips))) if task == "i2v" else None
    log(look=stage, task=task, clips=count, s=time.monotonic() - began, first_frame_psnr=psnr,
        **{name: share.value for name, share in found.items()})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", choices=STEPS, required=True)
    parser.add_argument("--task", choices=SHAPES, default="t2v")
    parser.add_argument("--count", type=int, default=64)
    args = parser.parse_args()
    look(args.out, args.stage, args.task, args.count, Log(args.out / "look.jsonl"))


if __name__ == "__main__":
    main()
