"""Who wins in the arena, how surely, and how often the judge agrees with people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..data.votes import Outcome
from ..ranking import bradley_terry

_PRIOR: Final = 0.1
"""Of :func:`~diffusers_ext.ranking.bradley_terry`, which keeps strengths finite where somebody always won."""
_ELO: Final = 400 / math.log(10)
"""Points per unit of log-odds: 400 for odds of ten to one."""
_AVERAGE: Final = 1000.0
_Z: Final = 1.96


@dataclass(frozen=True)
class Standing:
    """One maker's place.

    Attributes:
        maker: its name.
        votes: in how many pairs of two makers it took part.
        elo: its Bradley-Terry strength on the scale of Elo; the mean of all makers is 1000.
        low: lower end of the 95% interval.
        high: upper end of it.
    """

    maker: str
    votes: int
    elo: float
    low: float
    high: float


@dataclass(frozen=True)
class VoteAgreement:
    """How often a judge prefers what people prefer, ties left out; the interval is Wilson's, of 95%."""

    judge: str
    agreed: int
    votes: int

    @property
    def share(self) -> float:
        return self.agreed / self.votes

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson (1927), which holds for few votes and for shares near 0 and 1 too."""
        n, p = self.votes, self.share
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        reach = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)


def standings(outcomes: Sequence[Outcome]) -> list[Standing]:
    """The makers, best first. A tie (and "both bad") is half a win for each.

    Intervals are Wald's: the inverse of the Fisher information of the Bradley-Terry model at the strengths found, for
    strengths relative to their mean.
    """
    played = [item for item in outcomes if item.maker_of_a and item.maker_of_b and item.maker_of_a != item.maker_of_b]
    makers = sorted({name for item in played for name in (str(item.maker_of_a), str(item.maker_of_b))})
    if not makers:
        return []
    place = {name: number for number, name in enumerate(makers)}
    wins = np.zeros((len(makers), len(makers)))
    for item in played:
        a, b = place[str(item.maker_of_a)], place[str(item.maker_of_b)]
        won = {"a": 1.0, "b": 0.0}.get(item.choice, 0.5)
        wins[a, b] += won
        wins[b, a] += 1 - won
    strengths = bradley_terry(wins, _PRIOR)
    errors = _ELO * _Z * standard_errors(strengths, wins + wins.T, _PRIOR)
    elo = _AVERAGE + _ELO * (strengths - strengths.mean())
    games = (wins + wins.T).sum(1)
    return [
        Standing(makers[i], round(games[i]), float(elo[i]), float(elo[i] - errors[i]), float(elo[i] + errors[i]))
        for i in np.argsort(-elo, kind="stable")
    ]


def standard_errors(strengths: np.ndarray, games: np.ndarray, prior: float) -> np.ndarray:
    """Of Bradley-Terry strengths less their mean, float64 [n], after `games` [n, n] between each two."""
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    information = -games * chance * (1 - chance)
    np.fill_diagonal(information, 0.0)
    own = 1 / (1 + np.exp(-strengths))
    np.fill_diagonal(information, -information.sum(1) + 2 * prior * own * (1 - own))
    centre = np.eye(len(strengths)) - 1 / len(strengths)
    return np.sqrt(np.diag(centre @ np.linalg.inv(information) @ centre).clip(0))


def agreements(outcomes: Sequence[Outcome]) -> list[VoteAgreement]:
    """Of every judge that was asked, how often it agrees with the votes that are no ties."""
    counted: dict[str, list[bool]] = {}
    for item in outcomes:
        if item.judge and item.judged is not None and item.choice in ("a", "b"):
            counted.setdefault(item.judge, []).append((item.judged > 0.5) == (item.choice == "a"))
    return [VoteAgreement(judge, sum(found), len(found)) for judge, found in sorted(counted.items())]
