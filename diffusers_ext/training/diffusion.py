"""Where a latent stands between noise and picture, and the deterministic way from one to the other.

Every model here sees ``x = signal * x0 + noise * e``, whatever it predicts. Once its output is split into the clean
latent x0 and the noise e, one step of DDIM and one of Euler on the flow are the same line (:func:`step`), and losses
need not ask what kind of model they train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

PredictionKind = Literal["flow", "epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class Level:
    """Noise levels of B latents.

    Attributes:
        timestep: what the denoiser is told, float32 [B].
        signal, noise: float32 [B], as factors of the clean latent and of the noise.
    """

    timestep: Tensor
    signal: Tensor
    noise: Tensor

    def mix(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The latents at these levels (the forward process)."""
        return as_factor(self.signal, clean) * clean + as_factor(self.noise, clean) * noise

    def split(self, kind: PredictionKind, latents: Tensor, output: Tensor) -> Prediction:
        """What a denoiser's output says of latents [B, ...] at these levels."""
        signal, noise = as_factor(self.signal, latents), as_factor(self.noise, latents)
        match kind:
            case "flow":
                return Prediction(latents - noise * output, latents + signal * output)
            case "epsilon":
                return Prediction((latents - noise * output) / signal, output)
            case "v_prediction":
                return Prediction(signal * latents - noise * output, noise * latents + signal * output)
            case "sample":
                return Prediction(output, (latents - signal * output) / noise)


@dataclass(frozen=True)
class Prediction:
    """The clean latents and the noise, both [B, ...], that a denoiser believes its input to be made of."""

    clean: Tensor
    noise: Tensor

    @property
    def velocity(self) -> Tensor:
        """Noise minus clean latents, what flow matching predicts, of any kind of model."""
        return self.noise - self.clean


Denoiser = Callable[[Tensor, Level], Prediction]
"""Latents [B, ...] at their levels, to what they are made of."""


def guided(prompted: Denoiser, unprompted: Denoiser, scale: float) -> Denoiser:
    """Classifier-free guidance (arXiv 2207.12598): unprompted + scale * (prompted - unprompted)."""

    def predict(latents: Tensor, level: Level) -> Prediction:
        with_prompt, without = prompted(latents, level), unprompted(latents, level)
        return Prediction(without.clean.lerp(with_prompt.clean, scale), without.noise.lerp(with_prompt.noise, scale))

    return predict


@dataclass(frozen=True)
class Schedule:
    """The way of a sampler with S steps: `timesteps` [S], and `signal` and `noise` [S + 1] before every step and after.

    All float32.
    """

    timesteps: Tensor
    signal: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> Schedule:
        return Schedule(self.timesteps.to(device), self.signal.to(device), self.noise.to(device))

    def level(self, index: int | Tensor, count: int = 1) -> Level:
        """The level before step `index`: one for all of `count` latents, or int64 [B], one each.

        After the last step nothing is left to predict, so its timestep is 0.
        """
        at = torch.as_tensor(index, device=self.signal.device).expand(count) if isinstance(index, int) else index
        timesteps = torch.cat([self.timesteps, self.timesteps.new_zeros(1)])
        return Level(timesteps[at], self.signal[at], self.noise[at])


def step(found: Prediction, to: Level) -> Tensor:
    """Latents one deterministic step on: DDIM (arXiv 2010.02502, eta = 0), and Euler where the model is a flow."""
    return to.mix(found.clean, found.noise)


def denoise(denoiser: Denoiser, latents: Tensor, schedule: Schedule, begin: int = 0, end: int | None = None) -> Tensor:
    """Latents after the steps from `begin` (inclusive) to `end` (exclusive; None for all), [B, ...]."""
    for index in range(begin, len(schedule) if end is None else end):
        found = denoiser(latents, schedule.level(index, len(latents)))
        latents = step(found, schedule.level(index + 1, len(latents)))
    return latents


def noise_for(shape: tuple[int, ...], seeds: Sequence[tuple[int, ...]], device: Any = "cpu") -> Tensor:
    """Standard normal float32 [len(seeds), *shape]; each row depends on its own seeds alone.

    So what a run draws does not depend on how it is cut into processes, and needs no state to be drawn again.
    """
    import numpy as np

    rows = []
    for seed in seeds:
        number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        rows.append(torch.randn(shape, generator=torch.Generator().manual_seed(number)))
    return torch.stack(rows).to(device)


def as_factor(values: Tensor, latents: Tensor) -> Tensor:
    """Values [B] as factors of latents [B, ...]."""
    return values.to(latents.dtype).reshape(-1, *(1 for _ in range(latents.ndim - 1)))
