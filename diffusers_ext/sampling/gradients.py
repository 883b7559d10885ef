"""Methods that climb the gradient of the reward: on the way, or on the noise that it begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .guidance import Ascent
from .levels import SamplingError
from .search import Found, noise_scale
from .session import Session, attempt
from .shares import check_least, check_share, step_at, steps_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Gradient:
    """Universal guidance (Bansal et al. 2023, arXiv 2302.07121) of `n` pictures, of which the best is kept.

    Attributes:
        n: how many pictures.
        looks: when to climb, as shares of the steps.
        length, climbs: see :class:`~diffusers_ext.sampling.Ascent`.
    """

    n: int = 4
    looks: tuple[float, ...] = (0.4, 0.6)
    length: float = 0.1
    climbs: int = 1

    def __post_init__(self) -> None:
        check_least("n", self.n, 1)
        for look in self.looks:
            check_share("look", look)
        Ascent(lambda clean: clean, (), self.length, self.climbs)

    def __call__(self, session: Session) -> Found:
        painter, seeds = session.painter, session.seeds(self.n)
        noise = painter.noise(seeds)
        steps = sorted({step_at(share, steps_of(session)) - 1 for share in self.looks})
        ascent = Ascent(session.differentiable, steps, self.length, self.climbs, session.on_failure)
        images = painter.paint(seeds, noise, callback=ascent).images
        return images, session.rank(images)


@dataclass(frozen=True)
class NoiseOptimization:
    """ReNO (Eyring et al. 2024, arXiv 2406.04312): climb the reward of the picture by the noise that it begins with.

    The gradient goes back through the whole chain of denoising steps, so this is for models of few steps. Of a model
    that needs many, a picture in few `steps` stands for the one in all: much the same grows from the same noise. The
    best noise met is painted in full. The log-density of the noise's norm is climbed too (equation 6), which holds the
    noise where the model knows it.

    Attributes:
        n: how many noises to begin from; each climbs alone, and the best picture of all is kept.
        iterations: climbing steps.
        steps: denoising steps of the chain; None for as many as the options say.
        rate: the most that one step changes the noise, as a root mean square; the noise's own is one.
        momentum: of Nesterov's method.
        regularization: weight of the log-density.
        clip: gradients longer than this are shortened to it, as in the paper.
    """

    n: int = 1
    iterations: int = 10
    steps: int | None = 4
    rate: float = 0.03
    momentum: float = 0.9
    regularization: float = 0.01
    clip: float = 0.1

    def __post_init__(self) -> None:
        check_least("n", self.n, 1)
        check_least("iterations", self.iterations, 1)
        if self.steps is not None:
            check_least("steps", self.steps, 1)
        if self.rate <= 0 or self.clip <= 0 or not 0 <= self.momentum < 1 or self.regularization < 0:
            raise SamplingError(
                "rate and clip are above zero, momentum is in [0, 1) and regularization is zero or more, not "
                f"{self.rate}, {self.clip}, {self.momentum}, {self.regularization}"
            )

    def __call__(self, session: Session) -> Found:
        import torch

        painter, seeds = session.painter, session.seeds(self.n)
        scale = noise_scale(painter.noise(seeds[:1]))
        found = [self._climb(session, seed, scale) for seed in seeds]
        images = painter.paint(seeds, torch.cat([noise for noise, _ in found])).images
        return images, session.rank(images, [node for _, node in found])

    def _climb(self, session: Session, seed: int, scale: float) -> tuple[Tensor, int | None]:
        import torch

        painter = session.painter
        start = painter.noise([seed])
        noise = start.float() / scale
        velocity = torch.zeros_like(noise)
        best, best_reward, best_node, parent = noise, -np.inf, None, None
        for number in range(self.iterations):
            before = painter.evaluations
            slopes: list[Tensor] = []

            def ask(point: Tensor = noise, slopes: list[Tensor] = slopes) -> np.ndarray:
                value, slope = self._slope(session, seed, point, start.dtype, scale)
                slopes.append(slope)
                return value

            rewards = attempt(ask, 1, session.on_failure)
            session.network_gradients += painter.evaluations - before
            (parent,) = session.note(rewards, f"iteration {number + 1}", [parent])
            if rewards[0] > best_reward:
                best, best_reward, best_node = noise, rewards[0], parent
            if not slopes or not np.isfinite(rewards).all():
                break
            slope = slopes[0] + self.regularization * _norm_slope(noise)
            slope = slope * min(1.0, self.clip / max(float(slope.norm()), 1e-30)) / self.clip
            velocity = self.momentum * velocity + slope
            noise = noise + self.rate * noise.numel() ** 0.5 * (slope + self.momentum * velocity)
        return (best * scale).to(start.dtype), best_node

    def _slope(
        self, session: Session, seed: int, noise: Tensor, dtype: torch.dtype, scale: float
    ) -> tuple[np.ndarray, Tensor]:
        import torch

        with torch.enable_grad():
            leaf = noise.detach().requires_grad_()
            clean = session.painter.differentiable([seed], (leaf * scale).to(dtype), self.steps)
            value = session.differentiable(clean)
            return value.detach().float().cpu().numpy(), torch.autograd.grad(value.sum(), leaf)[0]


def _norm_slope(noise: Tensor) -> Tensor:
    """The gradient of ``(d - 1) log |e| - |e|^2 / 2``, the log-density of the norm of d standard normal values."""
    return ((noise.numel() - 1) / noise.square().sum() - 1.0) * noise
