"""Stage 5: one to four steps instead of sixteen. `python -m model.training.student --out runs/demo`

Endpoint distillation on the student's own path. The rCM sampler asks a model at four times only
(model.sampler.rcm_timesteps), each time for the clean latent. At each of them the student learns where the
guided teacher's ODE ends that starts from the same noisy latent: what consistency models learn (Song et al.
2023), here by solving the ODE rather than by trusting the student's own next estimate, as in rectified flow's
reflow (Liu et al. 2023). Half of the noisy latents are what the student itself makes of its earlier steps, so
that it learns to mend its own errors (DAgger, Ross et al. 2011; backward simulation, Yin et al. 2024).
"""

import itertools
import random

import torch
from torch import Tensor

from model import sampler
from model.training.denoiser import Batch, Denoiser, Pool
from model.training.distil import distil
from model.training.setup import CLIPS, SIGMA_MAX

SOLVER_STEPS = 16  # of the teacher's whole way
# How often each of the four times is trained: the first has the most to learn.
SHARES = (0.3, 0.25, 0.2, 0.25)
ON_PATH = 0.5  # share of batches that start from the student's own earlier steps
TIMES = sampler.rcm_timesteps(sampler.MAX_RCM_STEPS, SIGMA_MAX)


def ask(model: Denoiser, x: Tensor, t: float, text: Tensor, drawn: Batch) -> Tensor:
    """Velocity at one time for the whole batch."""
    time = torch.full((len(x),), t, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16):
        return model(x, time, text, drawn.condition)


@torch.no_grad()
def endpoint(teacher: Denoiser, x: Tensor, t: float, text: Tensor, drawn: Batch, shift: float) -> Tensor:
    """Where the teacher's ODE ends that passes through x at time t: Euler steps, evenly spaced before `shift`."""
    position = t / (shift - (shift - 1) * t)
    steps = max(1, round(SOLVER_STEPS * position))
    times = [shift * s / (1 + (shift - 1) * s) for s in (position * (1 - i / steps) for i in range(steps + 1))]
    for now, after in itertools.pairwise(times):
        x = x - (now - after) * ask(teacher, x, now, text, drawn)
    return x


@torch.no_grad()
def noisy(student: Denoiser, drawn: Batch, step: int, text: Tensor, on_path: bool) -> Tensor:
    """What the student sees at its step `step`: from a real clip, or from its own earlier steps."""
    noise = torch.randn_like(drawn.x0)
    if step == 0:
        return noise * TIMES[0]  # the sampler begins with noise alone
    if not on_path:
        return torch.lerp(drawn.x0, noise, TIMES[step])
    x = noise * TIMES[0]
    for k in range(step):
        clean = x - TIMES[k] * ask(student, x, TIMES[k], text, drawn)
        x = torch.lerp(clean, torch.randn_like(clean), TIMES[k + 1])
    return x


def endpoint_loss(student: Denoiser, teacher: Denoiser, pool: Pool, batch: int, rng: random.Random) -> Tensor:
    drawn = pool.draw(batch)
    step = rng.choices(range(len(SHARES)), SHARES)[0]
    with torch.autocast(drawn.x0.device.type, torch.bfloat16):
        text = student.text(drawn.ids)
        with torch.no_grad():
            teachers_text = teacher.text(drawn.ids)
    x = noisy(student, drawn, step, text.detach(), rng.random() < ON_PATH)
    t = TIMES[step]
    target = (x - endpoint(teacher, x, t, teachers_text, drawn, CLIPS["whole"].shift)) / t
    return (ask(student, x, t, text, drawn) - target).square().mean()


def main() -> None:
    distil(__doc__, "student", "guided", endpoint_loss, seconds=500, cosine_from=0.4, batch=96, seed=5)


if __name__ == "__main__":
    main()
