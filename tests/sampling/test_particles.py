from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from diffusers_ext.sampling import SamplingError, Steering, beam, feynman_kac


class Gaussian:
    """The exact flow from noise to standard normal data of one dimension, driven as pipelines are."""

    def __init__(self) -> None:
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    def __call__(self, latents, callback, steps):
        self.scheduler.set_timesteps(steps)
        for step, timestep in enumerate(self.scheduler.timesteps):
            sigma = float(self.scheduler.sigmas[step])
            spread = (1 - sigma) ** 2 + sigma**2
            velocity = (sigma - (1 - sigma)) * latents / spread  # E[e | x] - E[x0 | x]
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            latents = callback(self, step, timestep, {"latents": latents}).get("latents", latents)
        return latents


@pytest.mark.parametrize("strength", [0.0, 0.5, -0.7])
def test_particles_end_up_as_the_tilted_distribution(strength):
    """Standard normal data tilted by exp(strength * x) are normal data of mean `strength` and variance one."""
    sign = float(np.sign(strength))
    latents = torch.randn(20000, 1, generator=torch.Generator().manual_seed(0))
    select = feynman_kac(abs(strength), threshold=1.0)
    steering = Steering(lambda clean: sign * clean[:, 0].numpy(), select, (10, 30, 48), churn=0.0)
    final = Gaussian()(latents, steering, 50)
    assert final.mean().item() == pytest.approx(strength, abs=0.04)
    assert final.std().item() == pytest.approx(1.0, abs=0.04)


def test_a_callback_can_be_used_again():
    latents = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
    steering = Steering(lambda clean: clean[:, 0].numpy(), beam(1), (5,))
    first, second = Gaussian()(latents, steering, 10), Gaussian()(latents, steering, 10)
    assert len(steering.checks) == 2
    assert steering.checks[0].rewards == steering.checks[1].rewards
    assert first.shape == second.shape


def test_one_reward_that_is_no_number_is_the_lowest():
    latents = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    rewards = np.array([1.0, np.nan, 3.0, 2.0])
    steering = Steering(lambda clean: rewards, beam(2), (5,), on_failure="finish")
    with pytest.warns(UserWarning, match="no number"):
        Gaussian()(latents, steering, 10)
    assert steering.checks[0].parents == (2, 3, 2, 3)


def test_nonsense_is_refused():
    with pytest.raises(SamplingError, match="churn"):
        Steering(lambda clean: clean, beam(1), (1,), churn=2.0)
    with pytest.raises(SamplingError, match="on_failure"):
        Steering(lambda clean: clean, beam(1), (1,), on_failure="hope")
    with pytest.raises(SamplingError, match="after step 1"):
        Gaussian()(torch.zeros(2, 1), Steering(lambda clean: clean[:, 0], beam(1), (0,)), 10)
