"""Samplers: pure functions from noise to latent; every step also yields its estimate of the clean latent."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# velocity(latent, t) with t in [0, 1]; the caller scales the timestep and casts.
Velocity = Callable[[Tensor, float], Tensor]

# Interior timesteps of rCM as angles (rCM, Zheng et al. 2025; TurboDiffusion): steps 2, 3 and 4.
_RCM_ANGLES = (1.5, 1.4, 1.0)
MAX_RCM_STEPS = 1 + len(_RCM_ANGLES)


@dataclass(frozen=True)
class Sample:
    """State after step k of n: the latent at the next timestep, and the present estimate of the clean one."""

    k: int
    n: int
    latent: Tensor
    denoised: Tensor


def rcm_timesteps(steps: int, sigma_max: float) -> list[float]:
    """steps + 1 times in [0, 1], falling to 0: t = sin a / (sin a + cos a) of the rCM angles."""
    if not 1 <= steps <= MAX_RCM_STEPS:
        raise ValueError(f"rCM takes 1 to {MAX_RCM_STEPS} steps, not {steps}")
    angles = torch.tensor([*[math.atan(sigma_max), *_RCM_ANGLES][:steps], 0.0], dtype=torch.float64)
    return (angles.sin() / (angles.sin() + angles.cos())).tolist()


def rcm(
    velocity: Velocity,
    noise: Tensor,
    steps: int,
    sigma_max: float,
    fresh_noise: Callable[[], Tensor] | None,
) -> Iterator[Sample]:
    """rCM sampling in float64 (rCM, Zheng et al. 2025).

    noise: standard normal, any shape. fresh_noise draws the noise of each SDE step; None: the ODE form.
    """
    times = rcm_timesteps(steps, sigma_max)
    x = noise.double() * times[0]
    for k, (t, t_next) in enumerate(itertools.pairwise(times), start=1):
        v = velocity(x, t).double()
        denoised = x - t * v
        if fresh_noise is None:
            x = x - (t - t_next) * v
        else:
            x = (1 - t_next) * denoised + t_next * fresh_noise().double()
        yield Sample(k, steps, x, denoised)


def euler_timesteps(steps: int, shift: float) -> list[float]:
    """steps + 1 times from 1 to 0, moved towards noise: t = shift s / (1 + (shift - 1) s), s uniform."""
    return [shift * s / (1 + (shift - 1) * s) for s in (1 - i / steps for i in range(steps + 1))]


def euler(velocity: Velocity, noise: Tensor, steps: int, shift: float) -> Iterator[Sample]:
    """Euler steps of the flow-matching ODE in float64, for undistilled models (Lipman et al. 2023)."""
    times = euler_timesteps(steps, shift)
    x = noise.double()
    for k, (t, t_next) in enumerate(itertools.pairwise(times), start=1):
        v = velocity(x, t).double()
        denoised = x - t * v
        x = x - (t - t_next) * v
        yield Sample(k, steps, x, denoised)


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022)."""
    return unconditional + guidance * (conditional - unconditional)
