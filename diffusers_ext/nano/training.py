"""What the nano training scripts share: a learning-rate schedule, mixed precision, and a crash-safe checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..precision import autocast
from ..rewards.errors import RewardDanceError
from ..states import write_state


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, a plateau, then a straight line down to `floor` of the peak over the last `decay` of the steps.

    The plateau lets a run be prolonged, or cooled down early, without having known its length in advance.
    """

    steps: int
    warmup: int = 200
    decay: float = 0.5
    floor: float = 0.02
    starts: tuple[int, ...] = (0,)
    """Steps at which something new begins to learn, so that the warm-up is repeated."""
    minutes: float | None = None
    """When the run ends if its steps are not done by then."""

    def factor(self, step: int, minutes: float = 0.0) -> float:
        """The share of the peak at a step that begins so many minutes into the run."""
        done = max(step / self.steps, minutes / self.minutes if self.minutes else 0.0)
        left = (1 - done) / max(1 / self.steps, self.decay)
        begun = step - max(start for start in self.starts if start <= step)
        return min(1.0, (begun + 1) / max(1, self.warmup), self.floor + (1 - self.floor) * max(0.0, left))

    def apply(self, optimizer: torch.optim.Optimizer, step: int, minutes: float = 0.0) -> None:
        """Set every group's learning rate; a group's peak is what its `lr` was when first seen."""
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.factor(step, minutes)


def mixed_precision(device: torch.device = torch.device("cpu")) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 where that is faster, the rest and all weights in float32."""
    return autocast(device)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state; see :func:`~diffusers_ext.states.write_state`."""
    write_state(path, state, f"step {state['step']}", RewardDanceError)
