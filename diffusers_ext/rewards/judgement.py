"""The one object that crosses every boundary of the package."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any


def sigmoid(log_odds: float) -> float:
    """The probability of given log-odds, without overflow."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    return math.exp(log_odds) / (1.0 + math.exp(log_odds))


@dataclass(frozen=True)
class Judgement:
    """A verdict of a reward model on one candidate.

    Attributes:
        log_odds: log P(yes) - log P(no) at the verdict; does not saturate as the reward does.
        instruction: name of the instruction it was judged by.
        criteria: what that instruction covers.
        candidate: index of the candidate among those given.
        reference: index or name of the reference it was held against; None for a pointwise judgement.
        explanation: the model's chain of thought, or None where none was asked for.
        debiased: whether both orders of the pair were asked and their log-odds averaged.
    """

    log_odds: float
    instruction: str
    criteria: tuple[str, ...]
    candidate: int = 0
    reference: int | str | None = None
    explanation: str | None = None
    debiased: bool = False

    @property
    def reward(self) -> float:
        """P(yes) in [0, 1] (RewardDance, arXiv 2509.08826): the sigmoid of the log-odds."""
        return sigmoid(self.log_odds)

    @property
    def verdict(self) -> bool:
        """Whether "yes" is the likelier answer."""
        return self.log_odds > 0

    def swapped(self, swapped: Judgement) -> Judgement:
        """Combine with the judgement of the same pair in the other order: half the difference of the log-odds.

        Exactly antisymmetric, so that the rewards of (a, b) and (b, a) add up to one.
        """
        return replace(self, log_odds=0.5 * (self.log_odds - swapped.log_odds), debiased=True)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the reward included."""
        return {"reward": self.reward, "verdict": "yes" if self.verdict else "no", **asdict(self)}
