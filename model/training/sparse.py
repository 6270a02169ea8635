"""Stage 6: sparse-linear attention. `python -m model.training.sparse --out runs/demo`

The sparse model learns to answer as the dense student does, on the student's own path (SLA, Zhang et al. 2025:
a short fine-tuning in which the linear branch learns what the dropped blocks held). Every other batch asks it
densely, so that one file serves both ways.
"""

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from model.training.denoiser import Denoiser, Pool, loaded
from model.training.run import Log, Schedule, resume, train
from model.training.setup import SHAPES, TOPK
from model.training.student import ON_PATH, SHARES, TIMES, ask, noisy


def align_loss(
    sparse: Denoiser, dense: Denoiser, pool: Pool, batch: int, rng: random.Random, topk: float | None
) -> Tensor:
    drawn = pool.draw(batch)
    step = rng.choices(range(len(SHARES)), SHARES)[0]
    with torch.autocast(drawn.x0.device.type, torch.bfloat16):
        text = sparse.text(drawn.ids)
        with torch.no_grad():
            denses_text = dense.text(drawn.ids)
    x = noisy(dense, drawn, step, denses_text, rng.random() < ON_PATH)
    with torch.no_grad():
        target = ask(dense, x, TIMES[step], denses_text, drawn)
    sparse.transformer.topk = topk
    return (ask(sparse, x, TIMES[step], text, drawn) - target).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=SHAPES, default="t2v")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--seed", type=int, default=6)
    Schedule.arguments(parser, seconds=300, lr=5e-4, cosine_from=0.3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = args.out / f"sparse-{args.task}.safetensors"
    dense = loaded(SHAPES[args.task], args.out / f"student-{args.task}.safetensors", device)
    sparse = Denoiser(SHAPES[args.task])
    resumed = resume(sparse, path)
    if not resumed:
        sparse.load_state_dict(dense.state_dict())
    sparse.to(device).text_encoder.requires_grad_(False)  # one for all models
    pool = Pool(args.out / "pool-whole.safetensors", args.task == "i2v", device)
    log = Log(args.out / "sparse.jsonl")
    log(stage="sparse", task=args.task, resumed=resumed, seed=args.seed, seconds=args.seconds, lr=args.lr,
        batch=args.batch, topk=TOPK)  # fmt: skip
    if not args.no_compile:
        dense.compile_blocks()
        sparse.compile_blocks()
    rng = random.Random(args.seed)
    ways = (TOPK, None)

    def loss() -> Tensor:
        return align_loss(sparse, dense, pool, args.batch, rng, ways[rng.randrange(2)])

    steps = train(sparse, loss, Schedule.of(args), path, log)
    log(stage="sparse done", steps=steps, samples=steps * args.batch)


if __name__ == "__main__":
    main()
