"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): reinforcement on the forward process.

Pictures are made by an old policy, with any solver and no guidance, and only the finished ones are kept. They are
noised again, and the denoiser learns on them by contrast: an implicit positive policy, the old one moved towards what
is learned, is to explain good pictures, and an implicit negative one, moved as far the other way, bad ones. There are
no trajectories, no likelihoods, and no gradient of the reward. The old policy follows slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .algorithm import Experience, Situation, velocity_distance
from .diffusion import denoise, guided


@dataclass(frozen=True)
class DiffusionNFT:
    """The options of DiffusionNFT.

    Attributes:
        guidance: classifier-free guidance of the pictures that are learned from; 1 for none, as in the paper. What
            guidance makes better is then learned along with what the reward does.
        beta: how far the implicit policies stand from the old one, in units of what has been learned.
        kl: weight of the squared distance to the policy that rewards began with, in velocity space.
        draws: noise levels drawn for every picture.
        within: the noisiest share of the levels, from which they are drawn; 1 for all, as in the paper. What is in a
            picture and where is decided while there is much noise, and levels after that say little of why it is good.
        updates: optimizer steps per iteration.
        follow_rate, follow_limit: after iteration i the old policy keeps min(rate * i, limit) of itself.
        limit: advantages, in standard deviations, at which a picture counts as wholly good or bad.
    """

    guidance: float = 1.0
    beta: float = 1.0
    kl: float = 1e-4
    draws: int = 2
    within: float = 1.0
    updates: int = 1
    follow_rate: float = 0.001
    follow_limit: float = 0.5
    limit: float = 5.0

    name: ClassVar[str] = "nft"
    climbs_gradient: ClassVar[bool] = False

    def keeps_of_old(self, iteration: int) -> float:
        """Share of itself that the old policy keeps after an iteration, counted from 0 (eq. 8)."""
        return min(self.follow_rate * iteration, self.follow_limit)

    def explore(self, situation: Situation) -> Experience:
        """Pictures by the old policy; rows are pictures at noise levels drawn for them."""
        with situation.as_old():
            denoiser = situation.denoiser()
            if self.guidance != 1:
                denoiser = guided(denoiser, situation.unprompted(), self.guidance)
            clean = denoise(denoiser, situation.noise, situation.schedule)
        count = len(clean)
        of = torch.arange(count, device=clean.device).repeat(self.draws)
        uniform, noise = situation.draw_levels(self.draws)
        uniform = 1 - self.within * (1 - uniform)
        return Experience(clean, {"of": of, "clean": clean[of], "noise": noise, "uniform": uniform})

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """One loss for each row, [R]."""
        level = situation.level(rows["uniform"])
        latents = level.mix(rows["clean"], rows["noise"])
        denoiser = situation.denoiser(rows["of"])
        with torch.no_grad(), situation.as_old():
            old = denoiser(latents, level)
        learned = denoiser(latents, level)
        good = optimality(advantages, self.limit)
        losses = self.limit * nft_loss(learned.clean, old.clean, rows["clean"], good, self.beta)
        if self.kl:
            with torch.no_grad(), situation.as_reference():
                reference = denoiser(latents, level)
            losses = losses + self.kl * velocity_distance(learned, reference)
        return losses

    def problems(self) -> Iterator[str]:
        if not 0 < self.within <= 1:
            yield f"within: must lie in (0, 1], not {self.within}"
        if not self.beta > 0:
            yield f"beta: must be above zero, not {self.beta}"
        if self.draws < 1 or self.updates < 1:
            yield "draws and updates: must be at least 1"


def optimality(advantages: Tensor, limit: float) -> Tensor:
    """Probability in [0, 1] that a picture is a good one (eq. 9): half, and more or less by its advantage."""
    return 0.5 + 0.5 * (advantages / limit).clamp(-1, 1)


def nft_loss(learned: Tensor, old: Tensor, clean: Tensor, good: Tensor, beta: float) -> Tensor:
    """The loss r |x+ - x0|^2 + (1 - r) |x- - x0|^2 (eq. 5), each self-normalized, divided by beta.

    The implicit policies x+ = (1 - beta) old + beta learned and x- = (1 + beta) old - beta learned are linear in the
    prediction, so they are the same in clean latents as in velocities.

    Args:
        learned, old: predicted clean latents, float [B, ...]; the gradient flows into `learned`.
        clean: the pictures' latents [B, ...].
        good: optimality r in [0, 1], float [B].
        beta: see :class:`DiffusionNFT`.

    Returns:
        float [B].
    """
    positive = (1 - beta) * old + beta * learned
    negative = (1 + beta) * old - beta * learned
    return (good * _self_normalized(positive, clean) + (1 - good) * _self_normalized(negative, clean)) / beta


def _self_normalized(found: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error over its own mean absolute error, taken as a constant: the weight of no level dominates."""
    difference = (found - clean).flatten(1)
    return difference.square().mean(1) / difference.abs().mean(1).detach().clamp_min(1e-5)
