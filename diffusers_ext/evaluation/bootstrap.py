"""Intervals by resampling, with records that share a prompt kept together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

RESAMPLES: Final = 1000
LEVEL: Final = 0.95


def interval(
    figure: Callable[[np.ndarray], float], groups: Sequence[object], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """A percentile interval of a figure (Efron & Tibshirani 1993, section 13.3), at 95%.

    What shares a group (a prompt) is drawn or left out together, since such records are not independent.

    Args:
        figure: takes indices into the records, with repetition, and gives the figure on those.
        groups: the group of every record.
        seed: of the drawing.
        resamples: how often to draw.

    Returns:
        The lower and the upper end; both not a number where there are no records.
    """
    if not len(groups):
        return float("nan"), float("nan")
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    members: list[list[int]] = [[] for _ in names]
    for index, name in enumerate(groups):
        members[names[name]].append(index)
    arrays = [np.array(member) for member in members]
    rng = np.random.default_rng(seed)
    found = [
        figure(np.concatenate([arrays[number] for number in rng.integers(len(arrays), size=len(arrays))]))
        for _ in range(resamples)
    ]
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(found, [tail, 100 - tail])
    return float(low), float(high)
