"""Universal guidance (Bansal et al. 2023, arXiv 2302.07121): climb the reward on the predicted clean picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .levels import SamplingError, levels_of
from .session import attempt, check_on_failure

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Ascent:
    """A `callback_on_step_end` that pushes every sample of a batch towards a higher reward.

    A step keeps the clean latents x0 and the noise e that the model sees in ``x = signal * x0 + noise * e``, so both
    follow from its two ends, with no call of the network and no gradient through it. x0 climbs the reward, and the
    latents are put together again with the same e. This is the paper's backward guidance (section 3.2), with a step of
    fixed length in place of an optimiser: rewards of unlike pictures have gradients of unlike length.

    Attributes:
        reward: takes clean latents [B, ...], gives rewards [B], differentiable.
        steps: after which to climb, counted from 0; not the first.
        length: of a climbing step: the root mean square of what it adds to x0, whose own is about one.
        climbs: climbing steps each time.
        on_failure: when the reward raises or is no number: "stop", or "finish" unguided, with a warning.
        rewards: of x0 before each climb, by step.
    """

    reward: Callable[[Tensor], Tensor]
    steps: Sequence[int]
    length: float = 0.05
    climbs: int = 1
    on_failure: str = "stop"
    rewards: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.length < 0 or self.climbs < 1:
            raise SamplingError(
                f"climbing takes a length >= 0 and at least one climb, not {self.length}, {self.climbs}"
            )
        check_on_failure(self.on_failure)
        self._before: Tensor | None = None

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents, before = tensors["latents"], self._before if step else None
        self._before = latents
        if step not in self.steps or before is None or self.length == 0:
            return {}
        levels = levels_of(pipeline.scheduler)
        clean, _ = levels.split(step, before, latents)
        better, self.rewards[step] = climbed(self.reward, clean, self.length, self.climbs, self.on_failure)
        # With e the same, only the clean part moves: signal * (better - clean). What the step left as it was is given.
        pushed = latents + levels.signal[step + 1] * (better - clean) * (before != latents)
        self._before = pushed
        return {"latents": pushed.to(latents.dtype)}


def climbed(
    reward: Callable[[Tensor], Tensor], clean: Tensor, length: float, climbs: int, on_failure: str = "stop"
) -> tuple[Tensor, np.ndarray]:
    """Clean latents after a few steps of a fixed length along the reward's gradient, and the rewards before them.

    A sample whose reward or gradient is no number, or zero, stays where it is.

    Args:
        reward: takes [B, ...], gives [B].
        clean: [B, ...], of any dtype; computed in float32.
        length: root mean square of each step, over all values of a sample.
        climbs: how many.
        on_failure: see :func:`~diffusers_ext.sampling.session.attempt`.
    """
    import torch

    now, first = clean.float(), np.full(len(clean), np.nan)
    axes = tuple(range(1, now.ndim))
    for number in range(climbs):
        slopes: list[Tensor] = []

        def ask(point: Tensor = now, slopes: list[Tensor] = slopes) -> np.ndarray:
            with torch.enable_grad():
                leaf = point.detach().requires_grad_()
                values = reward(leaf.to(clean.dtype))
                slopes.append(torch.autograd.grad(values.sum(), leaf)[0])
            return values.detach().float().cpu().numpy()

        values = attempt(ask, len(clean), on_failure)
        if number == 0:
            first = values
        if not slopes:
            break
        slope = torch.nan_to_num(slopes[0], 0.0, 0.0, 0.0)
        size = slope.square().mean(axes, keepdim=True).sqrt()
        known = torch.as_tensor(np.isfinite(values), device=now.device).view(-1, *(1 for _ in axes))
        now = now + torch.where(known & (size > 0), length * slope / size.clamp_min(1e-30), torch.zeros_like(slope))
    return now.to(clean.dtype), first
