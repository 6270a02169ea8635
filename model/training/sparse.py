"""Stage 6: sparse-linear attention. `python -m model.training.sparse --out runs/demo`

The sparse model learns to answer as the dense student does (SLA, Zhang et al. 2025: a short fine-tuning in which
the linear branch learns what the dropped blocks held), half of the time on its own path, so that it learns to mend
its own errors. Every third batch asks it densely, so that one file serves both ways.
"""

import random

import torch
from torch import Tensor

from kernels import switch
from model.training.denoiser import Denoiser, Pool
from model.training.distil import distil
from model.training.setup import TOPK
from model.training.student import ON_PATH, SHARES, TIMES, ask, noisy


def align_loss(sparse: Denoiser, dense: Denoiser, pool: Pool, batch: int, rng: random.Random) -> Tensor:
    drawn = pool.draw(batch)
    step = rng.choices(range(len(SHARES)), SHARES)[0]
    with torch.autocast(drawn.x0.device.type, torch.bfloat16):
        text = sparse.text(drawn.ids)
        with torch.no_grad():
            denses_text = dense.text(drawn.ids)
    sparse.transformer.topk = TOPK
    x = noisy(sparse, drawn, step, text.detach(), rng.random() < ON_PATH)
    with torch.no_grad():
        target = ask(dense, x, TIMES[step], denses_text, drawn)
    sparse.transformer.topk = rng.choice((TOPK, TOPK, None))
    return (ask(sparse, x, TIMES[step], text, drawn) - target).square().mean()


def main() -> None:
    switch.use("reference")  # the kernel has no gradient: one arithmetic for the whole stage
    try:
        distil(__doc__, "sparse", "student", align_loss, seconds=300, cosine_from=0.3, batch=48, seed=6)
    finally:
        switch.use(None)


if __name__ == "__main__":
    main()
