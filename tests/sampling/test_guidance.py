from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusers_ext.nano import GENERATOR_OPTIONS
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.sampling import Ascent, Canvas, Painter, SamplingError, levels_of
from diffusers_ext.sampling.decoding import decode, pixels
from diffusers_ext.sampling.gradients import _norm_slope
from tests.sampling.test_levels import SCHEDULERS

PROMPT = "a photo of a red star"


@pytest.mark.parametrize(("scheduler", "says"), SCHEDULERS)
def test_the_clean_part_moves_by_the_length_and_the_noise_not_at_all(scheduler, says):
    """A model that always predicts the same picture and noise; the reward -|x - target|^2 / 2 points to the target."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, target = torch.randn(3, 2, 4, 8, 8, generator=generator)
    scheduler.set_timesteps(12)
    levels = levels_of(scheduler)
    ascent = Ascent(lambda x: -(x - target).square().flatten(1).sum(1) / 2, (5,), length=0.2, climbs=2)
    pipeline, latents = SimpleNamespace(scheduler=scheduler), levels.signal[0] * clean + levels.noise[0] * noise
    for step, timestep in enumerate(scheduler.timesteps[:6]):
        spread = (levels.signal[step] ** 2 + levels.noise[step] ** 2) ** 0.5
        said = {
            "velocity": noise - clean,
            "epsilon": noise,
            "v": (levels.signal[step] * noise - levels.noise[step] * clean) / spread,
        }[says]
        latents = scheduler.step(said, timestep, latents, return_dict=False)[0]
        latents = ascent(pipeline, step, timestep, {"latents": latents}).get("latents", latents)
    way = target - clean
    moved = clean + 0.4 * way / way.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert (latents - levels.signal[6] * moved - levels.noise[6] * noise).abs().max() < 0.02
    assert np.allclose(ascent.rewards[5], -way.square().flatten(1).sum(1) / 2, rtol=0.01)


def test_what_a_step_leaves_as_it_was_is_left():
    scheduler = SCHEDULERS[0][0]
    scheduler.set_timesteps(6)
    ascent = Ascent(lambda x: x.flatten(1).sum(1), (1,), length=0.5)
    pipeline, latents = SimpleNamespace(scheduler=scheduler), torch.randn(1, 2, 4)
    ascent(pipeline, 0, None, {"latents": latents})
    stepped = torch.cat([latents[:, :1], latents[:, 1:] + 0.1], 1)
    pushed = ascent(pipeline, 1, None, {"latents": stepped})["latents"]
    assert (pushed[:, 0] == stepped[:, 0]).all()
    assert (pushed[:, 1] > stepped[:, 1]).all()


def test_the_gradient_of_the_judge_reaches_the_latents(pipeline, untrained_judge):
    """The reward rises along it, by finite differences; and pixels are what `decode` shows."""
    canvas = Canvas(64, 64)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 16, 8, 8, generator=generator) * 0.7
    shown = pixels(pipeline, latents, canvas)
    pictures = np.stack([np.asarray(image) for image in decode(pipeline, latents, canvas)])
    assert np.abs(shown.detach().permute(0, 2, 3, 1).numpy() * 255 - pictures).max() <= 0.51

    def reward(x):
        return untrained_judge.log_odds(pixels(pipeline, x, canvas), PROMPT, checkpointing=False)

    leaf = latents.clone().requires_grad_()
    (slope,) = torch.autograd.grad(reward(leaf).sum(), leaf)
    up = slope / slope.norm()
    with torch.no_grad():
        risen = (reward(latents + 0.05 * up) - reward(latents - 0.05 * up)).sum() / 0.1
    # Clamping is seen by the differences and not by the gradient, so they agree but in part.
    assert risen.item() > 0.3 * slope.norm().item()


def test_the_gradient_through_the_whole_chain(pipeline):
    """Against finite differences; and the chain is the pipeline's own."""
    options = {**GENERATOR_OPTIONS, "guidance_scale": 3.0, "num_inference_steps": 3}
    painter = Painter(pipeline, PROMPT, options)
    noise = painter.noise([0])
    goal = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    leaf = noise.clone().requires_grad_()
    end = painter.differentiable([0], leaf)
    plain = pipeline(PROMPT, generator=torch.Generator().manual_seed(0), output_type="latent", **options).images
    assert (end.detach() == plain).all()
    (slope,) = torch.autograd.grad((end * goal).sum(), leaf)
    way = torch.randn(noise.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ends = [painter.differentiable([0], noise + size * way) for size in (0.01, -0.01)]
    risen = ((ends[0] - ends[1]) * goal).sum() / 0.02
    assert risen.item() == pytest.approx((slope * way).sum().item(), rel=0.02)


def test_the_log_density_of_the_norm_of_noise():
    """The chi distribution's, by its definition; it is highest on the sphere of radius sqrt(d - 1)."""
    noise = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    size = noise.norm()
    (expected,) = torch.autograd.grad(14 * size.log() - size.square() / 2, noise)
    assert torch.allclose(_norm_slope(noise.detach()), expected)
    assert _norm_slope(noise.detach() / size.detach() * 14**0.5).abs().max() < 1e-12


def test_nonsense_is_refused():
    with pytest.raises(SamplingError, match="climb"):
        Ascent(lambda x: x, (1,), length=-1.0)


@pytest.mark.slow
def test_a_guided_run_costs_at_most_four_plain_ones(pipeline):
    """As the method is by default, measured in the time of the processor, the nano judge and autoencoder included."""
    from diffusers_ext.sampling import Gradient, RewardGuidedPipeline

    judge = RewardModel.default(device="cpu")
    options = {**GENERATOR_OPTIONS, "guidance_scale": 3.0}  # as most pipelines are run

    def seconds(method):
        guided = RewardGuidedPipeline(pipeline, judge, method)
        guided(PROMPT, **options)
        times = []
        for _ in range(3):
            start = time.process_time()
            guided(PROMPT, **options)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(Gradient(4)) < 4 * seconds(Gradient(4, length=0.0))
