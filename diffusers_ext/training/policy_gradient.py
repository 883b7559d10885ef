"""What Flow-GRPO and DDPO share: a sampler whose steps are Gaussian, and the clipped policy gradient on them.

Each names its own Gaussian; see grpo.py and ddpo.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .algorithm import Experience, Situation, velocity_distance
from .diffusion import Level, Prediction, denoise


@dataclass(frozen=True)
class Gaussian:
    """Where a step leads: N(mean, deviation^2), `mean` [B, ...] and `deviation` [B, 1, ...]."""

    mean: Tensor
    deviation: Tensor

    def log_probability(self, value: Tensor) -> Tensor:
        """Log density of `value` [B, ...], averaged over its numbers and without the constants, float32 [B]."""
        return -((value.detach() - self.mean).square() / (2 * self.deviation.square())).flatten(1).mean(1)


Transition = Callable[[Tensor, Prediction, Level, Level, Tensor], Gaussian]
"""Latents before a step, what they are made of, their level, that after the step, and the largest noise below 1."""


def explore(situation: Situation, transition: Transition, learn_from: int, within: float) -> Experience:
    """Pictures by a stochastic way; rows are the steps to learn from, with the log-probability they were taken with.

    Args:
        situation: what to explore in.
        transition: the Gaussian of a step.
        learn_from: how many steps of every picture are learned from, drawn for each iteration.
        within: the first share of the way from which they are drawn; only there are steps stochastic.
    """
    schedule, denoiser, latents = situation.schedule, situation.denoiser(), situation.noise
    stochastic = max(1, min(len(schedule) - 1, round(within * len(schedule))))
    chosen = _drawn(situation.iteration, stochastic, learn_from)
    kept: dict[str, list[Tensor]] = {name: [] for name in ("of", "x", "next", "before", "step")}
    for index in range(stochastic):
        level, to = schedule.level(index, len(latents)), schedule.level(index + 1, len(latents))
        ways = transition(latents, denoiser(latents, level), level, to, schedule.noise[1])
        after = ways.mean + ways.deviation * situation.draw_noise(100 + index)
        if index in chosen:
            kept["of"].append(torch.arange(len(latents), device=latents.device))
            kept["x"].append(latents)
            kept["next"].append(after)
            kept["before"].append(ways.log_probability(after))
            kept["step"].append(torch.full((len(latents),), index, device=latents.device))
        latents = after
    clean = denoise(denoiser, latents, schedule, stochastic)
    return Experience(clean, {name: torch.cat(values) for name, values in kept.items()})


def losses(
    situation: Situation,
    rows: dict[str, Tensor],
    advantages: Tensor,
    transition: Transition,
    clip: float,
    kl: float,
) -> Tensor:
    """The clipped loss and the distance to the policy that rewards began with, for each row, [R]."""
    schedule, denoiser = situation.schedule, situation.denoiser(rows["of"])
    level, to = schedule.level(rows["step"]), schedule.level(rows["step"] + 1)
    found = denoiser(rows["x"], level)
    now = transition(rows["x"], found, level, to, schedule.noise[1]).log_probability(rows["next"])
    cost = clipped_loss(now, rows["before"], advantages, clip)
    if kl:
        with torch.no_grad(), situation.as_reference():
            reference = denoiser(rows["x"], level)
        cost = cost + kl * velocity_distance(found, reference)
    return cost


def clipped_loss(now: Tensor, before: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's loss (arXiv 1707.06347, eq. 7): the worse of ratio * A and clipped ratio * A, negated.

    Args:
        now, before: log-probabilities of what was done, [R], as learned by now and as it was done.
        advantages: [R].
        clip: how far the ratio may leave 1 and still be followed.

    Returns:
        float [R].
    """
    ratio = (now - before).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def _drawn(iteration: int, stochastic: int, count: int) -> set[int]:
    """The same for all processes: an iteration's own number decides."""
    import numpy as np

    rng = np.random.default_rng((iteration, 31))
    return {int(index) for index in rng.choice(stochastic, min(count, stochastic), replace=False)}
