"""Evaluations: the same prompts and the same noise, painted by what has been learned, and looked at from all sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rewards.images import as_images
from .algorithm import velocity_distance
from .diffusion import denoise, noise_for
from .monitors import Evaluation, feature_diversity, group_deviation, pixel_diversity
from .prompts import Prompt, first_frames, texts
from .rewards import Judge
from .studio import Studio

SEED = 424242


@dataclass(frozen=True)
class Exam:
    """What is painted and who looks at it.

    Attributes:
        prompts: all of them.
        size: pictures of each.
        steps: denoising steps.
        guidance: classifier-free guidance; 1 for none.
        second: a judge that is not trained against, or None.
        oracle: whether all prompts are of the nano world, so that the oracle is the second judge if there is no other.
    """

    prompts: tuple[Prompt, ...]
    size: int
    steps: int
    guidance: float
    second: Judge | None
    oracle: bool

    @torch.no_grad()
    def sit(
        self, studio: Studio, iteration: int, samples: int, seconds: float
    ) -> tuple[Evaluation, Tensor, Tensor] | None:
        """The evaluation, the pictures [prompts, size, 3, H, W] (of videos, a frame from the middle), their rewards.

        All processes paint; the first looks at the pictures, and the others get None.
        """
        prompts = [prompt for prompt in self.prompts for _ in range(self.size)]
        seeds = [(SEED, number) for number in range(len(prompts))]
        studio.make_references(prompts, iteration)
        images = studio.paint_together(prompts, seeds, self.steps, self.guidance)
        distance = _base_distance(studio, prompts, seeds)
        if not studio.accelerator.is_main_process:
            return None
        rewards = torch.cat(
            [
                studio.rewards(images[start : start + 64], prompts[start : start + 64], iteration)
                for start in range(0, len(images), 64)
            ]
        )
        truth = (
            _truth(images, texts(prompts)) if self.oracle and images.ndim == 4 else None
        )  # it does not look at videos
        second = None if truth is None else truth.correct
        if self.second is not None:
            second = self.second.reward(images, texts(prompts), None, first_frames(prompts))
        held_out = None
        if second is not None and truth is not None:
            held_out = float(second[truth.rare].mean()) if truth.rare.any() else None
        shown = images[:, images.shape[1] // 2] if images.ndim == 5 else images
        grouped = shown.unflatten(0, (len(self.prompts), self.size))
        features = _features(studio, shown)
        found = Evaluation(
            iteration=iteration,
            samples=samples,
            seconds=round(seconds, 1),
            reward=float(rewards.mean()),
            reward_deviation=float(rewards.std(correction=0)),
            group_deviation=group_deviation(rewards.reshape(-1, self.size)),
            pixel_diversity=pixel_diversity(grouped),
            feature_diversity=None if features is None else feature_diversity(features.unflatten(0, grouped.shape[:2])),
            base_distance=distance,
            second=None if second is None else float(second.mean()),
            second_deviation=None if second is None else float(second.std(correction=0)),
            held_out=held_out,
            exact=None if truth is None else float(truth.exact.mean()),
        )
        return found, grouped, rewards.reshape(-1, self.size)


@dataclass(frozen=True)
class _Truth:
    """Of B pictures of the nano world, float [B]: which are correct, and which of these show nothing besides what was
    asked for; and bool [B], whose prompts name a held-out combination.
    """

    correct: Tensor
    exact: Tensor
    rare: Tensor


def _truth(images: Tensor, prompts: Sequence[str]) -> _Truth:
    from ..nano.oracle import judge
    from ..nano.scenes import parse_prompt

    specs = [parse_prompt(prompt) for prompt in prompts]
    verdicts = [judge(picture, spec) for picture, spec in zip(as_images(images.clamp(0, 1)), specs, strict=True)]
    return _Truth(
        correct=torch.tensor([float(verdict.correct) for verdict in verdicts]),
        exact=torch.tensor([float(verdict.grade.exact) for verdict in verdicts]),
        rare=torch.tensor([spec.is_held_out for spec in specs]),
    )


def nano_prompts_only(prompts: Sequence[str]) -> bool:
    """Whether the oracle understands all of them."""
    from ..nano.scenes import PromptError, parse_prompt

    try:
        for prompt in prompts:
            parse_prompt(prompt)
    except PromptError:
        return False
    return True


def _features(studio: Studio, images: Tensor) -> Tensor | None:
    """Features of pictures [B, 3, H, W] by the first judge that is here; None if all are elsewhere."""
    backbone = next((judge.model.backbone for judge in studio.judges if hasattr(judge.model, "backbone")), None)
    return None if backbone is None else features_of(backbone, images)


def features_of(backbone: Any, images: Tensor) -> Tensor:
    """The mean of what a judge's vision tower makes of each picture [B, 3, H, W], float32 [B, width] on the CPU."""
    parts = []
    for part in images.split(64):
        seen = backbone.look(backbone.pixels_of(part.clamp(0, 1).to(backbone.model.device)))
        parts.append(torch.stack([item.embeddings.float().mean(0).cpu() for item in seen]))
    return torch.cat(parts)


def _base_distance(studio: Studio, prompts: Sequence[Prompt], seeds: Sequence[tuple[int, ...]]) -> float:
    """Mean squared difference of velocities to the base, on noised latents of the base, at random levels."""
    chosen = np.linspace(0, len(prompts) - 1, min(32, len(prompts))).astype(int)
    asked, numbers = [prompts[index] for index in chosen], [(*seeds[index], 1) for index in chosen]
    noise = noise_for(studio.generator.shape, numbers, studio.device)
    uniform = (torch.arange(len(asked), device=studio.device) + 0.5) / len(asked)
    denoiser = studio.denoiser(asked)
    with studio.policy.acting_as({}):
        clean = denoise(
            denoiser, noise_for(studio.generator.shape, [(*n, 2) for n in numbers], studio.device), studio.schedule
        )
        level = studio.generator.level(uniform)
        latents = level.mix(clean, noise)
        base = denoiser(latents, level)
    return float(velocity_distance(denoiser(latents, level), base).mean())
