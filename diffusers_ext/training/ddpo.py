"""DDPO (Black et al. 2024, arXiv 2305.13301): the clipped policy gradient for models that predict noise.

The sampler is DDIM with eta > 0, whose steps are Gaussian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from . import policy_gradient
from .algorithm import Experience, Situation
from .diffusion import Level, Prediction, as_factor
from .policy_gradient import Gaussian


@dataclass(frozen=True)
class DDPO:
    """The options of DDPO.

    Attributes:
        eta: share of the noise of a step that is fresh: 0 is DDIM, 1 as much as DDPM.
        clip: how far the likelihood ratio of a step may leave 1.
        kl: weight of the squared distance to the policy that rewards began with, in velocity space.
        train_steps: steps of every picture that are learned from.
        updates: optimizer steps per iteration.
    """

    eta: float = 1.0
    clip: float = 1e-3
    kl: float = 0.0
    train_steps: int = 4
    updates: int = 2

    name: ClassVar[str] = "ddpo"
    climbs_gradient: ClassVar[bool] = False

    def keeps_of_old(self, iteration: int) -> float:
        return 0.0

    def explore(self, situation: Situation) -> Experience:
        """Pictures by stochastic DDIM, and the steps to learn from."""
        return policy_gradient.explore(situation, self._transition, self.train_steps, within=1.0)

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """One loss for each row, [R]."""
        return policy_gradient.losses(situation, rows, advantages, self._transition, self.clip, self.kl)

    @property
    def _transition(self) -> policy_gradient.Transition:
        return partial(ddim_transition, eta=self.eta)

    def problems(self) -> Iterator[str]:
        if not 0 < self.eta <= 1:
            yield f"eta: must lie in (0, 1], not {self.eta}"
        if self.clip <= 0:
            yield f"clip: must be above zero, not {self.clip}"
        if self.train_steps < 1 or self.updates < 1:
            yield "train_steps and updates: must be at least 1"


def ddim_transition(
    latents: Tensor, found: Prediction, level: Level, to: Level, largest: Tensor, eta: float
) -> Gaussian:
    """A step of DDIM (arXiv 2010.02502, eq. 12 and 16), for levels that preserve variance."""
    before = as_factor(level.signal, latents).square()
    after = as_factor(to.signal, latents).square()
    variance = eta**2 * (1 - after) / (1 - before) * (1 - before / after)
    mean = after.sqrt() * found.clean + (1 - after - variance).clamp_min(0).sqrt() * found.noise
    return Gaussian(mean, variance.clamp_min(1e-10).sqrt())
