"""What the stages after the teacher share: a learner that begins as the model it learns from."""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from model.training.denoiser import Denoiser, Pool, loaded
from model.training.look import look
from model.training.run import Log, Schedule, resume, train
from model.training.setup import SHAPES

# loss(learner, teacher, pool, batch, dice) of one batch
Loss = Callable[[Denoiser, Denoiser, Pool, int, random.Random], Tensor]


def distil(
    description: str | None,
    stage: str,
    of: str,
    loss: Loss,
    seconds: float,
    cosine_from: float,
    batch: int,
    seed: int,
) -> None:
    """Run a stage from its command line: `of`-TASK.safetensors of the run becomes `stage`-TASK.safetensors."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=SHAPES, default="t2v")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--seed", type=int, default=seed)
    Schedule.arguments(parser, seconds=seconds, lr=5e-4, cosine_from=cosine_from)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = args.out / f"{stage}-{args.task}.safetensors"
    teacher = loaded(SHAPES[args.task], args.out / f"{of}-{args.task}.safetensors", device)
    learner = Denoiser(SHAPES[args.task])
    resumed = resume(learner, path)
    if not resumed:
        learner.load_state_dict(teacher.state_dict())
    learner.to(device).text_encoder.requires_grad_(False)  # one for all models
    pool = Pool(args.out / "pool-whole.safetensors", args.task == "i2v", device)
    log = Log(args.out / f"{stage}.jsonl")
    log(stage=stage, task=args.task, resumed=resumed, seed=args.seed, seconds=args.seconds, lr=args.lr,
        batch=args.batch)  # fmt: skip
    if not args.no_compile:
        teacher.compile_blocks()
        learner.compile_blocks()
    dice = random.Random(args.seed)

    def one_batch() -> Tensor:
        return loss(learner, teacher, pool, args.batch, dice)

    steps = train(learner, one_batch, Schedule.of(args), path, log)
    log(stage=f"{stage} done", task=args.task, steps=steps, samples=steps * args.batch)
    look(args.out, stage, args.task, args.look, log)
