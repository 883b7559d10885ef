"""Shares of a pipeline's way as steps, and what the numbers of a method may be."""

from __future__ import annotations

from numbers import Integral, Real

from .levels import SamplingError
from .session import Session


def steps_of(session: Session) -> int:
    """How many steps the whole way has, known once the painter was asked for noise."""
    return len(session.painter.levels().noise) - 1


def step_at(share: float, total: int) -> int:
    """How many steps are done after a share of them: at least two, and at least one is left."""
    if total < 3:
        raise SamplingError(f"looking half-way takes at least three steps, not {total}; raise num_inference_steps")
    return min(max(2, round(share * total)), total - 1)


def check_share(name: str, value: float) -> None:
    """Refuse a share that is not between 0 and 1."""
    if not isinstance(value, Real) or not 0 < value < 1:
        raise SamplingError(f"{name} is a share of the steps in (0, 1), not {value!r}")


def check_probability(name: str, value: float) -> None:
    """Refuse what is no probability above 0."""
    if not isinstance(value, Real) or not 0 < value <= 1:
        raise SamplingError(f"{name} is a probability in (0, 1], not {value!r}")


def check_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small, or not whole."""
    if not isinstance(value, Integral):
        raise SamplingError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise SamplingError(f"{name} must be at least {least}, not {value}")
