"""Flow-GRPO (Liu et al. 2025, arXiv 2505.05470): GRPO on a flow whose ODE is sampled as an SDE.

The SDE has the marginals of the ODE, so pictures stay as good, but its steps are Gaussian, so they have a likelihood,
and exploration. Few steps suffice while training, and learning from a part of them is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from . import policy_gradient
from .algorithm import Experience, Situation
from .diffusion import Level, Prediction, as_factor
from .policy_gradient import Gaussian


@dataclass(frozen=True)
class FlowGRPO:
    """The options of Flow-GRPO.

    Attributes:
        noise: the paper's a, how much noise the SDE puts in.
        clip: how far the likelihood ratio of a step may leave 1. Small, since log-probabilities are averaged over all
            numbers of a latent.
        kl: weight of the squared distance to the policy that rewards began with, in velocity space.
        train_steps: steps of every picture that are learned from.
        within: the first share of the way that is stochastic, and from which these steps are drawn.
        updates: optimizer steps per iteration.
    """

    noise: float = 0.7
    clip: float = 1e-3
    kl: float = 0.01
    train_steps: int = 2
    within: float = 1.0
    updates: int = 2

    name: ClassVar[str] = "grpo"
    climbs_gradient: ClassVar[bool] = False

    def keeps_of_old(self, iteration: int) -> float:
        return 0.0

    def explore(self, situation: Situation) -> Experience:
        """Pictures by the SDE, and the steps to learn from."""
        return policy_gradient.explore(situation, self._transition, self.train_steps, self.within)

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """One loss for each row, [R]."""
        return policy_gradient.losses(situation, rows, advantages, self._transition, self.clip, self.kl)

    @property
    def _transition(self) -> policy_gradient.Transition:
        return partial(flow_transition, strength=self.noise)

    def problems(self) -> Iterator[str]:
        if self.noise <= 0 or self.clip <= 0:
            yield "noise and clip: must be above zero"
        if not 0 < self.within <= 1:
            yield f"within: must lie in (0, 1], not {self.within}"
        if self.train_steps < 1 or self.updates < 1:
            yield "train_steps and updates: must be at least 1"


def flow_transition(
    latents: Tensor, found: Prediction, level: Level, to: Level, largest: Tensor, strength: float
) -> Gaussian:
    """One Euler-Maruyama step of the reverse SDE of a flow (eq. 12).

    dx = [v + s^2 / (2 t) e] dt + s dw with s = strength * sqrt(t / (1 - t)), where v is the velocity and
    e = x + (1 - t) v the predicted noise. At t = 1, where s has no bound, it is that of `largest`, the next time.
    """
    time, after = as_factor(level.noise, latents), as_factor(to.noise, latents)
    bounded = torch.where(time >= 1, largest.to(latents.dtype), time)
    spread = strength * (time / (1 - bounded)).sqrt()
    mean = latents + (found.velocity + spread.square() / (2 * time) * found.noise) * (after - time)
    return Gaussian(mean, spread * (time - after).sqrt())
