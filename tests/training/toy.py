"""A one-number denoiser in float64, so that every loss can be differentiated by hand."""

from __future__ import annotations

from contextlib import contextmanager

import torch

from diffusers_ext.training.algorithm import Situation
from diffusers_ext.training.diffusion import Level, Schedule


class Toy:
    """Predicts the velocity tanh(a x + b t), elementwise; a and b are what is learned."""

    def __init__(self, a: float = 0.4, b: float = -0.3, kind: str = "flow") -> None:
        self.kind = kind
        self.a = torch.tensor(a, dtype=torch.float64, requires_grad=True)
        self.b = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        self.base = (torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64))
        self.old = (torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.1, dtype=torch.float64))

    @contextmanager
    def acting(self, weights):
        own = self.a, self.b
        self.a, self.b = weights
        try:
            yield
        finally:
            self.a, self.b = own

    def denoiser(self, of=None, prompt: float = 0.0):
        def predict(latents, level):
            output = torch.tanh(self.a * latents + self.b * level.noise.reshape(-1, 1) + prompt)
            return level.split(self.kind, latents, output)

        return predict

    def unprompted(self, of=None):
        return self.denoiser(of, prompt=0.5)


def flow_schedule(steps: int = 4) -> Schedule:
    noise = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return Schedule(1000 * noise[:-1], 1 - noise, noise)


def diffusion_schedule(steps: int = 4) -> Schedule:
    signal = torch.linspace(0.2, 1, steps + 1, dtype=torch.float64)
    return Schedule(torch.linspace(999, 0, steps, dtype=torch.float64), signal, (1 - signal**2).sqrt())


def flow_level(uniform):
    return Level(1000 * uniform, 1 - uniform, uniform)


def situation(toy: Toy, schedule: Schedule, count: int = 6, width: int = 5, iteration: int = 3) -> Situation:
    generator = torch.Generator().manual_seed(1)

    def reward(clean, of):
        return torch.sin(clean).sum(1)

    return Situation(
        noise=torch.randn(count, width, generator=generator, dtype=torch.float64),
        schedule=schedule,
        denoiser=toy.denoiser,
        unprompted=toy.unprompted,
        level=lambda uniform: flow_level(uniform.double()),
        as_old=lambda: toy.acting(toy.old),
        as_base=lambda: toy.acting(toy.base),
        as_reference=lambda: toy.acting(toy.base),
        reward=reward,
        seeds=[(7, number) for number in range(count)],
        iteration=iteration,
    )
