"""The figures of a judge on preferences: accuracy with and without ties, consistency, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from ..data.prompts import normalized
from .bootstrap import interval
from .judging import Judged

BINS: Final = 10


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, and how many records it is of."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Bin:
    """A bar of a reliability diagram: judgements of about one confidence, and how often they were right.

    Attributes:
        confidence: mean of P(the winner that the judge names is better), in [0.5, 1].
        accuracy: share of them that people agree with.
        n: how many.
    """

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class PreferenceReport:
    """What :func:`preference_report` finds.

    Attributes:
        figures: by name, in the order in which they are to be read.
        reliability: bins of equal width over the confidence; empty ones are left out.
    """

    figures: dict[str, Estimate]
    reliability: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "reliability": [asdict(item) for item in self.reliability],
        }


def preference_report(judged: Sequence[Judged], seed: int = 0) -> PreferenceReport:
    """The figures of judgements of preferences, with intervals by bootstrap over prompts.

    - *accuracy*: of the pairs with a winner, the share on which the judge names it.
    - *accuracy with ties*: of all pairs, where the judge calls a tie below a threshold on the size of its log-odds, the
      best there is for these very records (Deutsch et al. 2023, arXiv 2305.14324), so that judges can be compared
      whether or not they are in the habit of calling ties.
    - *swap-consistency*: the share on which both orders name the same winner.
    - *expected calibration error*: mean distance of confidence and accuracy over ten bins (Guo et al. 2017,
      arXiv 1706.04599); lower is better.
    - *log-loss*: mean of -log P(what people chose), in nats; log 2 is a coin's.
    - accuracy by each criterion that records name.
    """
    decided = [item for item in judged if item.record.choice != "tie"]
    figures = {"accuracy": _estimate(decided, _accuracy, seed)}
    if len(decided) < len(judged):
        figures["accuracy with ties"] = _estimate(judged, accuracy_with_ties, seed)
    figures |= {
        "swap-consistency": _estimate(judged, lambda items: float(np.mean([i.consistent for i in items])), seed),
        "expected calibration error": _estimate(decided, calibration_error, seed),
        "log-loss": _estimate(decided, _log_loss, seed),
    }
    for name in sorted({criterion for item in decided for criterion in item.record.criteria}):
        about = [item for item in decided if name in item.record.criteria]
        figures[f"accuracy, {name}"] = _estimate(about, _accuracy, seed)
    return PreferenceReport(figures, reliability(decided))


def _estimate(items: Sequence[Judged], figure: Callable[[Sequence[Judged]], float], seed: int) -> Estimate:
    if not items:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    prompts = [normalized(item.record.prompt) for item in items]
    low, high = interval(lambda chosen: figure([items[int(index)] for index in chosen]), prompts, seed)
    return Estimate(figure(items), low, high, len(items))


def _accuracy(items: Sequence[Judged]) -> float:
    return float(np.mean([item.right for item in items]))


def _log_loss(items: Sequence[Judged]) -> float:
    signed = np.array([item.log_odds if item.record.choice == "a" else -item.log_odds for item in items])
    return float(np.logaddexp(0.0, -signed).mean())


def accuracy_with_ties(items: Sequence[Judged]) -> float:
    """The highest share of right verdicts (a, b or tie) that any threshold on the size of the log-odds gives."""
    sizes = np.array([abs(item.log_odds) for item in items])
    ties = np.array([item.record.choice == "tie" for item in items])
    right = np.array([item.right for item in items])
    order = np.argsort(sizes, kind="stable")
    # At each place a threshold just above it: what is below counts as ties, what is above as named.
    below = np.concatenate([[0], np.cumsum(ties[order])])
    above = np.concatenate([np.cumsum(right[order][::-1])[::-1], [0]])
    edges = np.concatenate([[True], sizes[order][1:] > sizes[order][:-1], [True]])
    return float((below + above)[edges].max() / len(items))


def reliability(items: Sequence[Judged]) -> tuple[Bin, ...]:
    """Bins of equal width over the confidence in [0.5, 1]."""
    if not items:
        return ()
    confidence = np.array([max(item.reward, 1 - item.reward) for item in items])
    right = np.array([item.right for item in items])
    places = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
        for here in (places == number for number in range(BINS))
        if here.any()
    )


def calibration_error(items: Sequence[Judged]) -> float:
    """Expected calibration error over :func:`reliability`'s bins, in [0, 1]."""
    return sum(item.n * abs(item.accuracy - item.confidence) for item in reliability(items)) / len(items)
