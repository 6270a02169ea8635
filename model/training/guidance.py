"""Stage 4: learn what the guided teacher says, in one pass. `python -m model.training.guidance --out runs/demo`

Guidance distillation (Meng et al. 2023): the student predicts the teacher's guided velocity from the caption
alone. It starts the distillation, and is what draws that stage's trajectories at half the price.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from model import sampler
from model.training.denoiser import Denoiser, Pool, loaded, noise_levels, over
from model.training.run import Log, Schedule, resume, train
from model.training.setup import CLIPS, GUIDANCE, SHAPES


def guidance_loss(student: Denoiser, teacher: Denoiser, pool: Pool, shift: float, batch: int) -> Tensor:
    device = pool.latents.device
    drawn = pool.draw(batch)
    t = noise_levels(batch, shift, device)
    x = torch.lerp(drawn.x0, torch.randn_like(drawn.x0), over(t))
    with torch.autocast(device.type, torch.bfloat16):
        with torch.no_grad():
            text = teacher.text(drawn.ids)
            conditional = teacher(x, t, text, drawn.condition)
            unconditional = teacher(x, t, torch.zeros_like(text), drawn.condition)
        velocity = student(x, t, student.text(drawn.ids), drawn.condition)
    return (velocity - sampler.guided(conditional, unconditional, GUIDANCE)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=SHAPES, default="t2v")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=4)
    Schedule.arguments(parser, seconds=150, lr=5e-4, cosine_from=0.3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clips = CLIPS["whole"]
    path = args.out / f"guided-{args.task}.safetensors"
    teacher = loaded(SHAPES[args.task], args.out / f"teacher-{args.task}.safetensors", device)
    student = Denoiser(SHAPES[args.task])
    resumed = resume(student, path)
    if not resumed:
        student.load_state_dict(teacher.state_dict())
    student.to(device).text_encoder.requires_grad_(False)  # one for all models
    pool = Pool(args.out / "pool-whole.safetensors", args.task == "i2v", device)
    log = Log(args.out / "guided.jsonl")
    log(stage="guided", task=args.task, resumed=resumed, seed=args.seed, seconds=args.seconds, lr=args.lr,
        batch=args.batch, guidance=GUIDANCE)  # fmt: skip
    if not args.no_compile:
        teacher.compile_blocks()
        student.compile_blocks()

    def loss() -> Tensor:
        return guidance_loss(student, teacher, pool, clips.shift, args.batch)

    steps = train(student, loss, Schedule.of(args), path, log)
    log(stage="guided done", steps=steps, samples=steps * args.batch)


if __name__ == "__main__":
    main()
