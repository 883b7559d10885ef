"""What an algorithm is given and what it gives back: the seam between one file's loss and the loop they all share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .diffusion import Denoiser, Level, Prediction, Schedule, noise_for


@dataclass(frozen=True)
class Experience:
    """What an iteration explored.

    Attributes:
        clean: finished latents [B, ...] to be judged; None where judging is part of the loss.
        rows: tensors [R, ...] to learn from. ``of``, int64 [R], says which picture each row belongs to.
    """

    clean: Tensor | None
    rows: dict[str, Tensor]


@dataclass(frozen=True)
class Situation:
    """One iteration as an algorithm sees it: B pictures to be made, and the policies that can make them.

    Attributes:
        noise: standard normal float32 [B, ...], what the pictures begin as.
        schedule: the sampler's way.
        denoiser: the policy under the prompts of the given rows' pictures (int64 [R]; None for all B).
        unprompted: the same under the empty prompt, for guidance; only where the configuration asks for some.
        level: noise levels of uniform numbers in [0, 1), as the model was trained with.
        as_old, as_base, as_reference: contexts in which the policy is the one that explores, the one before any
            training, or the one that rewards began with, to which `kl` ties: the base, or what a warm start made of it.
        reward: the judges' reward of clean latents [R, ...] of pictures `of`, float [R], with gradient.
        seeds: one for each picture, for all else that is drawn.
        iteration: counted from 0.
    """

    noise: Tensor
    schedule: Schedule
    denoiser: Callable[..., Denoiser]
    unprompted: Callable[..., Denoiser]
    level: Callable[[Tensor], Level]
    as_old: Callable[[], AbstractContextManager[None]]
    as_base: Callable[[], AbstractContextManager[None]]
    as_reference: Callable[[], AbstractContextManager[None]]
    reward: Callable[[Tensor, Tensor], Tensor]
    seeds: Sequence[tuple[int, ...]]
    iteration: int

    def draw_noise(self, purpose: int) -> Tensor:
        """Standard normal float32 like `noise`; another for every purpose."""
        return noise_for(tuple(self.noise.shape[1:]), [(*seed, purpose) for seed in self.seeds], self.noise.device)

    def draw_uniform(self, purpose: int) -> Tensor:
        """Uniform float32 [B] in [0, 1)."""
        import numpy as np

        values = [np.random.default_rng((*seed, purpose)).random() for seed in self.seeds]
        return torch.tensor(values, dtype=torch.float32, device=self.noise.device)

    def draw_levels(self, draws: int) -> tuple[Tensor, Tensor]:
        """Uniform numbers [draws * B] and noise [draws * B, ...]; a picture's draws are spread evenly over [0, 1)."""
        first = self.draw_uniform(1)
        uniform = torch.cat([(first + number / draws) % 1.0 for number in range(draws)])
        return uniform, torch.cat([self.draw_noise(2 + number) for number in range(draws)])


class Algorithm(Protocol):
    """One file of this folder each, as a frozen record of its options."""

    name: ClassVar[str]
    climbs_gradient: ClassVar[bool]
    """Whether it climbs the gradient of the reward; if not, rewards reach it as advantages within a prompt's group."""

    @property
    def updates(self) -> int:
        """Optimizer steps per iteration."""

    def keeps_of_old(self, iteration: int) -> float:
        """Share of itself that the exploring policy keeps after an iteration; 0 where it is the one that learns."""

    def explore(self, situation: Situation) -> Experience:
        """Make pictures; called without gradient."""

    def losses(self, situation: Situation, rows: dict[str, Tensor], advantages: Tensor) -> Tensor:
        """One loss for each of the rows given, [R]; `advantages` [R] are zeros for those that climb the gradient."""

    def problems(self) -> Iterator[str]:
        """What is wrong with the options."""


def velocity_distance(found: Prediction, other: Prediction) -> Tensor:
    """Mean squared difference of velocities [B]: the KL divergence of the two up to a factor of the noise level."""
    return (found.velocity - other.velocity.detach()).square().flatten(1).mean(1)
