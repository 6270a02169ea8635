"""Samplers on velocities whose answer is known."""

import math

import pytest
import torch

from model import sampler


def test_rcm_takes_one_to_four_steps() -> None:
    for steps in (0, 5):
        with pytest.raises(ValueError, match="1 to 4 steps"):
            sampler.rcm_timesteps(steps, 80.0)


def test_rcm_starts_at_the_angle_of_sigma_max() -> None:
    times = sampler.rcm_timesteps(1, 80.0)
    assert times == [pytest.approx(80 / 81), 0.0]


def straight(target: torch.Tensor, noise: torch.Tensor):
    return lambda x, t: noise - target


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_euler_follows_a_straight_flow_to_its_end(steps: int) -> None:
    target, noise = torch.full((1, 2), 3.0), torch.randn(1, 2)
    samples = list(sampler.euler(straight(target, noise), noise, steps, shift=3.0))
    assert [(s.k, s.n) for s in samples] == [(k, steps) for k in range(1, steps + 1)]
    torch.testing.assert_close(samples[-1].latent.float(), target)
    torch.testing.assert_close(samples[0].denoised.float(), target)


def test_shift_moves_steps_towards_noise() -> None:
    assert sampler.euler_timesteps(4, 1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert sampler.euler_timesteps(2, 3.0)[1] == pytest.approx(0.75)


def test_the_ode_form_draws_no_noise() -> None:
    velocity = lambda x, t: x * math.sin(t)  # noqa: E731
    a, b = ([s.latent for s in sampler.rcm(velocity, torch.ones(2), 4, 80.0, None)] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_guidance_of_one_is_the_conditional_velocity() -> None:
    c, u = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(sampler.guided(c, u, 1.0), c)
    torch.testing.assert_close(sampler.guided(c, u, 0.0), u)
