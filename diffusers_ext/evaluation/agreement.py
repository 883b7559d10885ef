"""How much judges agree with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .judging import Judged


@dataclass(frozen=True)
class Agreement:
    """Of two judges on the same records.

    Attributes:
        share: of the records on which they name the same winner.
        kappa: the same beyond what two with their habits would do by chance (Cohen 1960); not a number where both
            always name the same side.
        correlation: Pearson's, of their log-odds.
    """

    share: float
    kappa: float
    correlation: float


def agreement(judges: Mapping[str, Sequence[Judged]]) -> dict[tuple[str, str], Agreement]:
    """Of every two of some judges, all on the same records in the same order."""
    names = list(judges)
    values = {name: np.array([item.log_odds for item in judges[name]]) for name in names}
    return {
        (one, other): _agreement(values[one], values[other])
        for number, one in enumerate(names)
        for other in names[number + 1 :]
    }


def _agreement(one: np.ndarray, other: np.ndarray) -> Agreement:
    first, second = one > 0, other > 0
    share = float((first == second).mean())
    chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    kappa = float((share - chance) / (1 - chance)) if chance < 1 else float("nan")
    vary = one.std() > 0 and other.std() > 0
    return Agreement(share, kappa, float(np.corrcoef(one, other)[0, 1]) if vary else float("nan"))
