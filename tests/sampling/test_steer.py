from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from diffusers_ext.nano import DEFAULT_PIPELINE, GENERATOR_OPTIONS
from diffusers_ext.ranking import best_of_n
from diffusers_ext.rewards.errors import PromptTextError
from diffusers_ext.rewards.judgement import Judgement
from diffusers_ext.sampling import SamplingError, Steering, beam, feynman_kac, steer

PROMPT = "a photo of a red star"
OPTIONS = {**GENERATOR_OPTIONS, "num_inference_steps": 8}


class Redness:
    """A judge with no model in it: the share of red, as log-odds."""

    def __init__(self) -> None:
        self.seen = 0

    def score(self, images, prompt, instruction=None, **options):
        self.seen += len(images)
        shades = [np.asarray(image, dtype=float).mean((0, 1)) for image in images]
        return [Judgement(float(shade[0] - shade[1:].mean()) / 8, "alignment", ()) for shade in shades]


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("select", [feynman_kac(0.0), beam(4)])
def test_strength_zero_is_the_plain_pipeline_bit_for_bit(pipeline, select):
    """So is a beam as wide as there are particles, but for their order."""
    steered = steer(pipeline, PROMPT, Redness(), select, 4, **OPTIONS)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    plain = pipeline([PROMPT] * 4, generator=generators, **OPTIONS).images
    assert sorted(map(bytes, pixels(steered.images))) == sorted(map(bytes, pixels(plain)))


def test_one_particle_is_the_plain_pipeline_whatever_the_strength(pipeline):
    steered = steer(pipeline, PROMPT, Redness(), feynman_kac(5.0, threshold=1.0), 1, seed=3, **OPTIONS)
    plain = best_of_n(pipeline, PROMPT, 1, Redness(), seed=3, **OPTIONS)
    assert (pixels(steered.images) == pixels(plain.images)).all()


def test_what_is_rewarded_grows_and_everything_is_counted(pipeline):
    judge = Redness()
    plain = best_of_n(pipeline, PROMPT, 6, Redness(), **OPTIONS)
    steered = steer(pipeline, PROMPT, judge, beam(1), 6, looks=(0.3, 0.6), **OPTIONS)
    assert np.mean(steered.ranking.rewards) > np.mean(plain.ranking.rewards)
    assert steered.evaluations == 6 * 8
    assert steered.judgements == judge.seen == 18
    assert [check.step for check in steered.checks] == [2, 5]
    for check in steered.checks:
        assert set(check.parents) == {int(np.argmax(check.rewards))}
    again = steer(pipeline, PROMPT, Redness(), beam(1), 6, looks=(0.3, 0.6), **OPTIONS)
    assert (pixels(again.images) == pixels(steered.images)).all()


def test_a_copy_is_fresh_only_as_far_as_it_is_churned(pipeline):
    spread = []
    for churn in (0.0, 0.3, 1.0):
        steered = steer(pipeline, PROMPT, Redness(), beam(1), 4, looks=(0.4,), churn=churn, **OPTIONS)
        spread.append(pixels(steered.images).std(0).mean())
    assert spread[0] == 0.0 < spread[1] < spread[2]


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


def test_bad_input_is_named(pipeline):
    judge, select = Redness(), beam(1)
    with pytest.raises(PromptTextError):
        steer(pipeline, " ", judge, select)
    with pytest.raises(SamplingError, match="at least one particle"):
        steer(pipeline, PROMPT, judge, select, 0)
    with pytest.raises(SamplingError, match="shares of the steps"):
        steer(pipeline, PROMPT, judge, select, looks=(1.0,))
    with pytest.raises(SamplingError, match="three steps"):
        steer(pipeline, PROMPT, judge, select, 2, **{**OPTIONS, "num_inference_steps": 2})
    with pytest.raises(SamplingError, match="churn"):
        steer(pipeline, PROMPT, judge, select, churn=2.0)
    with pytest.raises(SamplingError, match="callback_on_step_end"):
        steer(lambda prompt, generator: None, PROMPT, judge, select)
    broken = SimpleNamespace(score=lambda images, *_, **__: [SimpleNamespace(log_odds=float("nan"))] * len(images))
    with pytest.raises(SamplingError, match="finite"):
        steer(pipeline, PROMPT, broken, select, 2, **OPTIONS)
