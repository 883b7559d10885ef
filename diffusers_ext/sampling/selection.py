"""Which particles live on when a judge has looked at them half-way.

A selection takes the rewards so far and says whose copies go on. Particles that are not worth going on with make room
for copies of those that are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from .levels import SamplingError

Potential = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Chosen:
    """Of each particle that goes on, whose copy it is, int64 [particles], and its log-weight from here, [particles]."""

    parents: np.ndarray
    log_weights: np.ndarray


Selection = Callable[[np.ndarray, np.ndarray, np.random.Generator], Chosen]
"""Takes rewards (log-odds) [checks, particles] along each particle's past, log-weights [particles] and randomness."""


def beam(width: int) -> Selection:
    """Search over paths (Ma et al. 2025, arXiv 2501.09732; RewardDance's use of its pointwise verifier).

    The `width` best go on, each in as many copies as fit.

    Raises:
        SamplingError: a width below one.
    """
    if width < 1:
        raise SamplingError(f"a beam is at least one particle wide, not {width}")

    def select(rewards: np.ndarray, log_weights: np.ndarray, rng: np.random.Generator) -> Chosen:
        best = np.argsort(-rewards[-1], kind="stable")[:width]
        return Chosen(np.resize(best, rewards.shape[1]), np.zeros(rewards.shape[1]))

    return select


def _difference(rewards: np.ndarray) -> np.ndarray:
    return rewards[-1] - rewards[-2] if len(rewards) > 1 else rewards[-1]


def _max(rewards: np.ndarray) -> np.ndarray:
    best = rewards.max(0)
    return best - rewards[:-1].max(0) if len(rewards) > 1 else best


def _sum(rewards: np.ndarray) -> np.ndarray:
    return rewards[-1]


POTENTIALS: Final[dict[str, Potential]] = {"difference": _difference, "max": _max, "sum": _sum}
"""What a particle's log-weight grows by at a check. The totals over all checks are the last reward (`difference`), the
best so far (`max`) and the sum of all (`sum`); Singhal et al. 2025, arXiv 2501.06848, section 3.2."""


def feynman_kac(strength: float, potential: str = "difference", threshold: float = 0.5) -> Selection:
    """Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848): weigh, and resample once the weights are uneven.

    Particles are drawn, systematically, in proportion to exp(strength * potential), so that they end up distributed as
    the model's own pictures tilted by exp(strength * reward), in the limit of many particles.

    Args:
        strength: per unit of log-odds; zero leaves all particles alone.
        potential: one of :data:`POTENTIALS`.
        threshold: resample when the effective sample size falls below this share of the particles; 1 for always.

    Raises:
        SamplingError: no such potential, a negative strength, or a threshold outside [0, 1].
    """
    if potential not in POTENTIALS:
        raise SamplingError(f"no potential {potential!r}; there are {', '.join(POTENTIALS)}")
    if strength < 0 or not 0 <= threshold <= 1:
        raise SamplingError(
            f"the strength must be zero or more and the threshold in [0, 1], not {strength}, {threshold}"
        )

    def select(rewards: np.ndarray, log_weights: np.ndarray, rng: np.random.Generator) -> Chosen:
        grown = log_weights + strength * POTENTIALS[potential](rewards)
        count = len(grown)
        if effective_sample_size(grown) >= threshold * count:
            return Chosen(np.arange(count), grown)
        return Chosen(systematic(_normalised(grown), rng), np.zeros(count))

    return select


def effective_sample_size(log_weights: np.ndarray) -> float:
    """1 / sum of squared normalised weights: from 1, all weight on one, to their number, all alike."""
    return float(1.0 / (_normalised(log_weights) ** 2).sum())


def systematic(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Systematic resampling (Kitagawa 1996): each particle `n * weight` times, rounded at random, unbiased."""
    places = (rng.random() + np.arange(len(weights))) / len(weights)
    return np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1)


def _normalised(log_weights: np.ndarray) -> np.ndarray:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()
