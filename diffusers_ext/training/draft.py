"""DRaFT-K (Clark et al. 2024, arXiv 2309.17400) and AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739).

The picture is made to its end, and the reward's gradient flows back through the last K steps. AlignProp draws K anew
each time, so that no single length of the way back is favoured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .algorithm import Experience, Situation, velocity_distance
from .diffusion import Prediction, denoise, step


@dataclass(frozen=True)
class DRaFT:
    """The options of DRaFT-K.

    Attributes:
        steps: K, how many steps the gradient flows back through.
        random: draw K anew in every iteration from 1 to `steps` (AlignProp).
        checkpointing: compute each of these steps anew on the way back, in place of keeping its activations.
        kl: weight of the squared distance to the policy that rewards began with, in velocity space, at the steps with
            gradient.
        updates: optimizer steps per iteration.
    """

    steps: int = 1
    random: bool = False
    checkpointing: bool = True
    kl: float = 0.0
    updates: int = 1

    name: ClassVar[str] = "draft"
    climbs_gradient: ClassVar[bool] = True

    def keeps_of_old(self, iteration: int) -> float:
        return 0.0

    def explore(self, situation: Situation) -> Experience:
        """Latents before the last K steps."""
        begin = self._begin(situation)
        latents = denoise(situation.denoiser(), situation.noise, situation.schedule, end=begin)
        return Experience(None, {"of": torch.arange(len(latents), device=latents.device), "x": latents})

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """One loss for each row, [R]."""
        latents, schedule, denoiser = rows["x"], situation.schedule, situation.denoiser(rows["of"])
        begin = self._begin(situation)
        distance = latents.new_zeros(len(latents))
        for index in range(begin, len(schedule)):
            level = schedule.level(index, len(latents))

            def parts(x: Tensor, level=level) -> tuple[Tensor, Tensor]:
                found = denoiser(x, level)
                return found.clean, found.noise

            clean, noise = checkpoint(parts, latents, use_reentrant=False) if self.checkpointing else parts(latents)
            found = Prediction(clean, noise)
            if self.kl:
                with torch.no_grad(), situation.as_reference():
                    reference = denoiser(latents, level)
                distance = distance + velocity_distance(found, reference) / (len(schedule) - begin)
            latents = step(found, schedule.level(index + 1, len(latents)))
        return self.kl * distance - situation.reward(latents, rows["of"])

    def _begin(self, situation: Situation) -> int:
        total = len(situation.schedule)
        most = min(self.steps, total)
        # The same for all pictures and processes: an iteration's own number decides.
        return total - (1 + (situation.iteration * 7919) % most if self.random else most)

    def problems(self) -> Iterator[str]:
        if self.steps < 1 or self.updates < 1:
            yield "steps and updates: must be at least 1"
