"""Guidance distillation (Meng et al. 2023, arXiv 2210.03142): what classifier-free guidance does, in one prediction.

Without guidance a generator is much worse than people know it, and rewards have to teach first what guidance would give
for nothing. Here the base paints with guidance, and at every step of its way the policy learns to predict at once what
the base predicts from two. No picture is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .algorithm import Experience, Situation
from .diffusion import guided, step


@dataclass(frozen=True)
class GuidanceDistillation:
    """A warm start: how a run's first iterations are spent.

    Attributes:
        scale: of guidance, as pipelines of diffusers count it; 1 is none.
        iterations: how many of the run's, from the first.
        updates: optimizer steps per iteration. The target is exact, so many small steps do better than few large ones.
        learning_rate: while it lasts; None for the run's.
    """

    scale: float = 4.0
    iterations: int = 50
    updates: int = 8
    learning_rate: float | None = None

    def keeps_of_old(self, iteration: int) -> float:
        return 0.0

    def explore(self, situation: Situation) -> Experience:
        """The guided base's way; rows are all its steps, with the velocities taken."""
        schedule, latents, count = situation.schedule, situation.noise, len(situation.noise)
        kept: dict[str, list[Tensor]] = {name: [] for name in ("of", "x", "step", "velocity")}
        with situation.as_base():
            denoiser = guided(situation.denoiser(), situation.unprompted(), self.scale)
            for index in range(len(schedule)):
                found = denoiser(latents, schedule.level(index, count))
                kept["of"].append(torch.arange(count, device=latents.device))
                kept["x"].append(latents)
                kept["step"].append(torch.full((count,), index, device=latents.device))
                kept["velocity"].append(found.velocity)
                latents = step(found, schedule.level(index + 1, count))
        return Experience(None, {name: torch.cat(values) for name, values in kept.items()})

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """Mean squared error of each row's velocity, [R]."""
        found = situation.denoiser(rows["of"])(rows["x"], situation.schedule.level(rows["step"]))
        return (found.velocity - rows["velocity"]).square().flatten(1).mean(1)

    def problems(self) -> Iterator[str]:
        if self.iterations < 0 or self.updates < 1:
            yield "iterations must be at least 0, updates at least 1"
        if self.learning_rate is not None and not self.learning_rate > 0:
            yield f"learning_rate must be above zero, not {self.learning_rate}"
