"""Stage 4: learn what the guided teacher says, in one pass. `python -m model.training.guidance --out runs/demo`

Guidance distillation (Meng et al. 2023): the student predicts the teacher's guided velocity from the caption
alone. It starts the distillation, and is what draws that stage's trajectories at half the price.
"""

import random

import torch
from torch import Tensor

from model import sampler
from model.training.denoiser import Denoiser, Pool, noise_levels, over
from model.training.distil import distil
from model.training.setup import CLIPS, GUIDANCE


def guidance_loss(student: Denoiser, teacher: Denoiser, pool: Pool, batch: int, _: random.Random) -> Tensor:
    device = pool.latents.device
    drawn = pool.draw(batch)
    t = noise_levels(batch, CLIPS["whole"].shift, device)
    x = torch.lerp(drawn.x0, torch.randn_like(drawn.x0), over(t))
    with torch.autocast(device.type, torch.bfloat16):
        with torch.no_grad():
            text = teacher.text(drawn.ids)
            conditional = teacher(x, t, text, drawn.condition)
            unconditional = teacher(x, t, torch.zeros_like(text), drawn.condition)
        velocity = student(x, t, student.text(drawn.ids), drawn.condition)
    return (velocity - sampler.guided(conditional, unconditional, GUIDANCE)).square().mean()


def main() -> None:
    distil(__doc__, "guided", "teacher", guidance_loss, seconds=150, cosine_from=0.3, batch=96, seed=4)


if __name__ == "__main__":
    main()
