from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from diffusers_ext.sampling import SamplingError, levels_of

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = [
    (FlowMatchEulerDiscreteScheduler(shift=3.0), "velocity"),
    (EulerDiscreteScheduler(), "epsilon"),
    (EulerDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True), "v"),
    (DDIMScheduler(set_alpha_to_one=False, clip_sample=False, steps_offset=1), "epsilon"),
    (DDIMScheduler(prediction_type="v_prediction", clip_sample=False), "v"),
    (DPMSolverMultistepScheduler(solver_order=1), "epsilon"),
    (DPMSolverMultistepScheduler(solver_order=2), "epsilon"),
    (UniPCMultistepScheduler(**FLOW), "velocity"),
]


@pytest.mark.parametrize(("scheduler", "says"), SCHEDULERS)
def test_both_ends_of_a_step_give_back_picture_and_noise(scheduler, says):
    """A model that always predicts the same picture and noise is exact for every solver, of any order."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    scheduler.set_timesteps(12)
    levels = levels_of(scheduler)
    assert len(levels.signal) == len(levels.noise) == len(scheduler.timesteps) + 1
    assert levels.noise[-1] < 0.05 < 0.5 < levels.noise[0]
    latents = levels.signal[0] * clean + levels.noise[0] * noise
    for step, timestep in enumerate(scheduler.timesteps):
        before = latents
        spread = (levels.signal[step] ** 2 + levels.noise[step] ** 2) ** 0.5
        said = {
            "velocity": noise - clean,
            "epsilon": noise,
            "v": (levels.signal[step] * noise - levels.noise[step] * clean) / spread,
        }[says]
        latents = scheduler.step(said, timestep, latents, return_dict=False)[0]
        found_clean, found_noise = levels.split(step, before, latents)
        assert (found_clean - clean).abs().max() < 5e-3, step
        assert (found_noise - noise).abs().max() < 5e-3, step
    assert (latents - levels.signal[-1] * clean - levels.noise[-1] * noise).abs().max() < 5e-3


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerAncestralDiscreteScheduler(),
        LCMScheduler(),
        DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
        FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    ],
)
def test_schedulers_that_add_fresh_noise_are_named(scheduler):
    scheduler.set_timesteps(10)
    with pytest.raises(SamplingError, match="fresh noise at every step"):
        levels_of(scheduler)


def test_schedulers_that_take_two_steps_for_one_are_named():
    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(SamplingError, match="evaluates the network twice"):
        levels_of(scheduler)


def test_a_scheduler_without_levels_is_named():
    with pytest.raises(SamplingError, match="SimpleNamespace keeps no noise levels"):
        levels_of(SimpleNamespace(config={}))


def test_a_step_that_changes_no_noise_predicts_nothing():
    scheduler = PNDMScheduler()  # its warm-up visits some timesteps twice
    scheduler.set_timesteps(10)
    levels = levels_of(scheduler)
    twice = next(step for step in range(10) if levels.noise[step] == levels.noise[step + 1])
    with pytest.raises(SamplingError, match="nothing can be predicted"):
        levels.split(twice, torch.zeros(1), torch.zeros(1))
