"""Many particles in one batch of a pipeline, watched and thinned out between steps by a callback of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .levels import Levels, SamplingError, levels_of
from .selection import Selection
from .session import attempt, check_on_failure

if TYPE_CHECKING:
    from torch import Tensor

_HISTORY: Final = ("model_outputs", "last_sample", "derivatives", "ets")
"""Where schedulers keep what they remember of each particle."""


@dataclass(frozen=True)
class Check:
    """What happened at one look: rewards (log-odds) [particles], and whose copy each particle is from here on."""

    step: int
    rewards: tuple[float, ...]
    parents: tuple[int, ...]


@dataclass
class Steering:
    """A `callback_on_step_end` for any pipeline of diffusers.

    At the given steps the clean latents are predicted from what the step did (nothing is computed twice) and judged,
    and a selection says whose copies go on. A copy shares its original's x0 and a part of its noise:
    ``x = signal * x0 + noise * (sqrt(1 - churn^2) * e + churn * z)`` with fresh z. Originals go on untouched.

    Attributes:
        judge: takes predicted clean latents [particles, ...], gives rewards [particles].
        select: see :mod:`~diffusers_ext.sampling.selection`.
        steps: after which to look, counted from 0; not the first, after which too little is known of the way.
        churn: share of a copy's noise that is fresh, in [0, 1].
        seed: of the fresh noise and of the selection.
        on_failure: when the judge raises or gives no number: "stop", or "finish" unguided, with a warning.
        checks: what has happened so far.
    """

    judge: Callable[[Tensor], np.ndarray]
    select: Selection
    steps: Sequence[int]
    churn: float = 1.0
    seed: int = 0
    on_failure: str = "stop"
    checks: list[Check] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= 1:
            raise SamplingError(f"churn is a share in [0, 1], not {self.churn}")
        check_on_failure(self.on_failure)
        self._rng = np.random.default_rng(self.seed)
        self._rewards: np.ndarray | None = None
        self._weights: np.ndarray | None = None
        self._before: Tensor | None = None

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents, before = tensors["latents"], self._before if step else None
        self._before = latents
        if step == 0 and 0 in self.steps:
            raise SamplingError("the first look can be after step 1: it takes the latents of two steps")
        if step not in self.steps or before is None:
            return {}
        levels = levels_of(pipeline.scheduler)
        clean, noise = levels.split(step, before, latents)
        rewards = attempt(lambda: self.judge(clean), len(clean), self.on_failure)
        if np.isnan(rewards).all():
            return {}
        rewards = np.where(np.isnan(rewards), np.nanmin(rewards), rewards)
        past = rewards[None] if self._rewards is None else np.vstack([self._rewards, rewards])
        weights = np.zeros(len(rewards)) if self._weights is None else self._weights
        chosen = self.select(past, weights, self._rng)
        self._rewards, self._weights = past[:, chosen.parents], chosen.log_weights
        self.checks.append(Check(step, tuple(rewards.tolist()), tuple(int(place) for place in chosen.parents)))
        moved = self._copied(before, latents, clean, noise, levels, step, chosen.parents)
        _remember(pipeline.scheduler, chosen.parents, len(latents))
        self._before = moved
        return {"latents": moved}

    def _copied(
        self,
        before: Tensor,
        latents: Tensor,
        clean: Tensor,
        noise: Tensor,
        levels: Levels,
        step: int,
        parents: np.ndarray,
    ) -> Tensor:
        import torch

        moved = latents[torch.as_tensor(parents, device=latents.device)].clone()
        generator = torch.Generator("cpu").manual_seed(int(self._rng.integers(2**62)))
        seen: set[int] = set()
        for place, parent in enumerate(int(number) for number in parents):
            if parent in seen and self.churn > 0:
                fresh = torch.randn(noise[parent].shape, generator=generator).to(noise)
                mixed = (1 - self.churn**2) ** 0.5 * noise[parent] + self.churn * fresh
                copied = levels.signal[step + 1] * clean[parent] + levels.noise[step + 1] * mixed
                # What a step leaves as it was is no noise but given, such as the frame that a video begins with.
                moved[place] = torch.where(before[parent] == latents[parent], latents[parent], copied)
            seen.add(parent)
        return moved


def _remember(scheduler: Any, parents: np.ndarray, count: int) -> None:
    """Move what a solver of higher order remembers of each particle along with it."""
    import torch

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == count:
            return value[torch.as_tensor(parents, device=value.device)]
        return value

    for name in _HISTORY:
        if getattr(scheduler, name, None) is not None:
            setattr(scheduler, name, moved(getattr(scheduler, name)))
