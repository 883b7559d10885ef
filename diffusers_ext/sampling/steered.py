"""Particles: many samples in one batch, of which the judge makes some go on in several copies and others not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .levels import SamplingError
from .particles import Steering
from .search import Found
from .selection import Selection, beam, feynman_kac
from .session import Session
from .shares import check_least, check_share, step_at, steps_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class BeamSearch:
    """Beam search over denoising steps: at each look the best go on, each in as many copies as there is room for.

    Attributes:
        particles: how many, all in one batch.
        width: how many are kept at a look.
        looks: when, as shares of the steps.
        churn: share of a copy's noise that is fresh, in [0, 1].
    """

    particles: int = 8
    width: int = 2
    looks: tuple[float, ...] = (0.4, 0.6)
    churn: float = 1.0

    def __post_init__(self) -> None:
        beam(self.width)
        _check_particles(self.particles, self.looks, self.churn)

    def __call__(self, session: Session) -> Found:
        return _steered(session, beam(self.width), self.particles, self.looks, self.churn)


@dataclass(frozen=True)
class FeynmanKac:
    """Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848): particles resampled by their rewards.

    Attributes:
        particles: how many, all in one batch.
        strength, potential, threshold: see :func:`~diffusers_ext.sampling.feynman_kac`.
        looks: when to weigh them, as shares of the steps.
        churn: share of a copy's noise that is fresh, in [0, 1].
    """

    particles: int = 8
    strength: float = 1.0
    potential: str = "difference"
    threshold: float = 0.5
    looks: tuple[float, ...] = (0.4, 0.55, 0.7)
    churn: float = 1.0

    def __post_init__(self) -> None:
        feynman_kac(self.strength, self.potential, self.threshold)
        _check_particles(self.particles, self.looks, self.churn)

    def __call__(self, session: Session) -> Found:
        select = feynman_kac(self.strength, self.potential, self.threshold)
        return _steered(session, select, self.particles, self.looks, self.churn)


def _steered(session: Session, select: Selection, count: int, looks: tuple[float, ...], churn: float) -> Found:
    painter, seeds = session.painter, session.seeds(count)
    noise = painter.noise(seeds)
    total = steps_of(session)
    steps = sorted({step_at(share, total) - 1 for share in looks})
    stages, seen = iter(steps), 0
    grown: list[int | None] = [None] * count

    def judge(clean: Tensor) -> np.ndarray:
        nonlocal grown
        rewards, grown = session.look(painter.decode(clean), f"step {next(stages) + 1}", lineage())
        return rewards

    def lineage() -> list[int | None]:
        nonlocal grown, seen
        if len(steering.checks) > seen:
            seen = len(steering.checks)
            grown = [grown[parent] for parent in steering.checks[-1].parents]
        return grown

    steering = Steering(judge, select, steps, churn, session.seed, session.on_failure)
    images = painter.paint(seeds, noise, callback=steering, together=True).images
    return images, session.rank(images, lineage())


def _check_particles(particles: int, looks: Sequence[float], churn: float) -> None:
    check_least("particles", particles, 1)
    for look in looks:
        check_share("look", look)
    if not 0 <= churn <= 1:
        raise SamplingError(f"churn is a share in [0, 1], not {churn}")
