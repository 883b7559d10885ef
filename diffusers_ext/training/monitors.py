"""Is the generator getting better, or only its reward?

Reward hacking shows before it can be seen: pictures of a prompt grow alike, rewards within a group lose their spread,
and a judge that is not trained against stops to rise with the one that is. An evaluation measures all of that on the
same prompts and the same noise, and :func:`alarms_of` says what is wrong with a series of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..configuring import settle
from .errors import LoraTrainingError


@dataclass(frozen=True)
class Alarms:
    """When to warn.

    Attributes:
        diversity: least share of the base's diversity (the lower of pixels' and features').
        spread: least share of the base's standard deviation of rewards within a group.
        gap: how much further the reward may have risen than the second judge, both in standard deviations of the
            base's pictures, once the second has fallen from its best.
        fall: how far the second judge must be below its best for that, in the same unit.
        drift: how many times as far from the base a run may be as it was when its reward was as high already.
        patience: evaluations in a row with the same alarm before a run is stopped.
        stop: whether it is.
    """

    diversity: float = 0.8
    spread: float = 0.25
    gap: float = 1.0
    fall: float = 0.1
    drift: float = 3.0
    patience: int = 2
    stop: bool = True

    def __post_init__(self) -> None:
        settle(self, LoraTrainingError)
        for name in ("diversity", "spread", "gap", "fall", "drift"):
            if not getattr(self, name) >= 0:
                raise LoraTrainingError(f"{name}: must be at least 0, not {getattr(self, name)}")
        if self.patience < 1:
            raise LoraTrainingError(f"patience: must be at least 1, not {self.patience}")


@dataclass(frozen=True)
class Evaluation:
    """What the pictures of one evaluation show.

    Attributes:
        iteration: before which it was made; 0 is the base.
        samples: pictures learned from so far.
        seconds: of training so far, without evaluations.
        reward, reward_deviation: mean over all pictures, and standard deviation over them.
        group_deviation: standard deviation of rewards within a prompt, averaged.
        pixel_diversity: mean distance (root mean square) between pictures of a prompt, in [0, 1].
        feature_diversity: mean cosine distance between what a judge's vision tower makes of them; None without one.
        base_distance: mean squared difference of velocities to the base's: the KL divergence up to a factor.
        second, second_deviation: the second judge's mean and standard deviation; None without one.
        held_out: the second judge's mean on prompts that name held-out combinations; None without any.
        exact: share of pictures that the oracle finds correct and free of objects that nobody asked for; None where
            prompts are not all of the nano world.
    """

    iteration: int
    samples: int
    seconds: float
    reward: float
    reward_deviation: float
    group_deviation: float
    pixel_diversity: float
    feature_diversity: float | None
    base_distance: float
    second: float | None = None
    second_deviation: float | None = None
    held_out: float | None = None
    exact: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def group_deviation(rewards: Tensor) -> float:
    """Mean over groups of the standard deviation within them; rewards float [groups, group size]."""
    return float(rewards.std(1, correction=0).mean())


def pixel_diversity(images: Tensor) -> float:
    """Mean root-mean-square distance between every two pictures of a group; images [groups, size, ...] in [0, 1]."""
    flat = images.float().flatten(2)
    return _mean_of_pairs(torch.cdist(flat, flat) / math.sqrt(flat.shape[-1]))


def feature_diversity(features: Tensor) -> float:
    """Mean cosine distance between every two pictures of a group; features [groups, size, width]."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1)
    return _mean_of_pairs(1 - unit @ unit.transpose(1, 2))


def gap(history: Sequence[Evaluation]) -> float | None:
    """How much further the reward has risen than the second judge, in standard deviations of the base's pictures."""
    first, last = history[0], history[-1]
    if first.second is None or last.second is None:
        return None
    of_reward = (last.reward - first.reward) / max(first.reward_deviation, 1e-6)
    return of_reward - (last.second - first.second) / max(first.second_deviation or 0.0, 1e-6)


def alarms_of(history: Sequence[Evaluation], limits: Alarms) -> dict[str, str]:
    """What is wrong with the last of several evaluations, by name; empty if nothing is."""
    first, last = history[0], history[-1]
    found: dict[str, str] = {}
    diversity = diversity_share(first, last)
    if diversity < limits.diversity:
        found["diversity"] = f"pictures of one prompt differ by {diversity:.0%} of what the base's do"
    spread = spread_share(first, last)
    if spread < limits.spread:
        found["spread"] = f"rewards within a prompt spread by {spread:.0%} of what the base's do"
    distance = gap(history)
    if distance is not None and last.second is not None:
        best = max(item.second for item in history if item.second is not None)
        fallen = (best - last.second) / max(first.second_deviation or 0.0, 1e-6)
        if distance > limits.gap and fallen > limits.fall:
            found["gap"] = (
                f"the reward is {distance:.1f} deviations ahead of the second judge, which has fallen from "
                f"{best:.3f} to {last.second:.3f}"
            )
    # Over-optimization spends distance and gains nothing (Gao et al. 2022, arXiv 2210.10760), whoever the judge is.
    as_good = [item for item in history[:-1] if item.base_distance > 0 and item.reward >= last.reward]
    nearest = min(as_good, key=lambda item: item.base_distance, default=None)
    if nearest is not None and last.base_distance > limits.drift * nearest.base_distance:
        found["drift"] = (
            f"{last.base_distance / nearest.base_distance:.1f} times as far from the base as at iteration "
            f"{nearest.iteration}, where the reward was as high"
        )
    return found


def summary(history: Sequence[Evaluation]) -> str:
    """The last of several evaluations in a line."""
    first, last = history[0], history[-1]
    figures = {"reward": last.reward, "second judge": last.second, "held out": last.held_out, "exact": last.exact}
    parts = [f"{name} {value:.3f}" for name, value in figures.items() if value is not None]
    if len(history) > 1:
        spread, diversity = spread_share(first, last), diversity_share(first, last)
        parts.append(f"of the base's spread {spread:.0%}, diversity {diversity:.0%}")
    return f"after {last.iteration} iterations: {', '.join(parts)}"


def lasting(history: Sequence[Evaluation], limits: Alarms) -> dict[str, str]:
    """Alarms that each of the last `patience` evaluations raised; worded as in the last."""
    if len(history) <= limits.patience:
        return {}
    found = [alarms_of(history[: len(history) - back], limits) for back in range(limits.patience)]
    return {name: text for name, text in found[0].items() if all(name in other for other in found)}


def spread_share(first: Evaluation, last: Evaluation) -> float:
    """Standard deviation of rewards within a prompt as a share of the first evaluation's."""
    return last.group_deviation / max(first.group_deviation, 1e-6)


def diversity_share(first: Evaluation, last: Evaluation) -> float:
    """Diversity as a share of the first evaluation's, the lower of pixels' and features'."""
    shares = [last.pixel_diversity / max(first.pixel_diversity, 1e-9)]
    if first.feature_diversity and last.feature_diversity is not None:
        shares.append(last.feature_diversity / first.feature_diversity)
    return min(shares)


def _mean_of_pairs(distances: Tensor) -> float:
    size = distances.shape[-1]
    return float(distances.sum((1, 2)).mean() / (size * (size - 1)))
