"""Order pictures by what a judge makes of them, and pick the best of many."""

from __future__ import annotations

from .best_of_n import BestOfN, best_of_n
from .bradley_terry import bradley_terry
from .methods import METHODS, Judge, Ranking, RankingError, rank

__all__ = ["METHODS", "BestOfN", "Judge", "Ranking", "RankingError", "best_of_n", "bradley_terry", "rank"]
