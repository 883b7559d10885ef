"""ReFL (Xu et al. 2023, arXiv 2304.05977), as RewardDance trains with it: climb the reward's gradient at a late step.

A picture is denoised without gradient up to a random late step. One step is taken with gradient, the clean latent that
it predicts is decoded, and the judge's reward of it is backpropagated into the denoiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .algorithm import Experience, Situation, velocity_distance
from .diffusion import denoise


@dataclass(frozen=True)
class ReFL:
    """The options of ReFL.

    Attributes:
        earliest, latest: the step with gradient is drawn between these shares of the way.
        kl: weight of the squared distance to the policy that rewards began with, in velocity space.
        updates: optimizer steps per iteration.
    """

    earliest: float = 0.6
    latest: float = 1.0
    kl: float = 0.0
    updates: int = 1

    name: ClassVar[str] = "refl"
    climbs_gradient: ClassVar[bool] = True

    def keeps_of_old(self, iteration: int) -> float:
        return 0.0

    def explore(self, situation: Situation) -> Experience:
        """Latents on their way; each row stops before a late step of its own."""
        steps = len(situation.schedule)
        first = min(int(self.earliest * steps), steps - 1)
        count = max(1, min(steps, round(self.latest * steps)) - first)
        stops = first + (situation.draw_uniform(1) * count).long().clamp_max(count - 1)
        denoiser, latents = situation.denoiser(), situation.noise
        stopped = torch.empty_like(latents)
        for index in range(first + count):  # as many in each process, whatever it drew
            stopped = torch.where((stops == index).reshape(-1, *(1 for _ in latents.shape[1:])), latents, stopped)
            latents = denoise(denoiser, latents, situation.schedule, index, index + 1)
        return Experience(None, {"of": torch.arange(len(latents), device=latents.device), "x": stopped, "step": stops})

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """One loss for each row, [R]."""
        level = situation.schedule.level(rows["step"])
        found = situation.denoiser(rows["of"])(rows["x"], level)
        losses = -situation.reward(found.clean, rows["of"])
        if self.kl:
            with torch.no_grad(), situation.as_reference():
                reference = situation.denoiser(rows["of"])(rows["x"], level)
            losses = losses + self.kl * velocity_distance(found, reference)
        return losses

    def problems(self) -> Iterator[str]:
        if not 0 <= self.earliest < self.latest <= 1:
            yield f"earliest and latest: expected 0 <= earliest < latest <= 1, not {self.earliest} and {self.latest}"
        if self.updates < 1:
            yield "updates: must be at least 1"
