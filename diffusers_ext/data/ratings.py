"""From ratings of single media to preferences between two."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from statistics import fmean

from .problems import Problem
from .prompts import normalized
from .records import Media, Preference, Rating, Source


def pairs_from_ratings(found: Iterable[Rating | Problem]) -> Iterator[Preference | Problem]:
    """Every two media of one prompt that were rated differently by the same criteria, on the same scale.

    The one with the higher rating is chosen. The difference is the margin, in units of the ratings; divided by the
    length of the scale, where that is known, it is the strength. A medium that was rated several times counts with the
    mean. Equal ratings give no pair: they do not say that two media are equally good, only that the scale is coarse.
    Which of the two comes first follows the order in which they were found.

    Args:
        found: ratings, and problems, which are passed on.
    """
    groups: dict[tuple[object, ...], dict[Media, list[Rating]]] = {}
    for item in found:
        if isinstance(item, Problem):
            yield item
            continue
        dataset = item.source.dataset if item.source else None
        question = (normalized(item.prompt), item.criteria, item.instruction, item.scale, dataset, item.first_frame)
        groups.setdefault(question, {}).setdefault(item.medium, []).append(item)
    for rated in groups.values():
        means = {medium: fmean(item.rating for item in items) for medium, items in rated.items()}
        for a, b in itertools.combinations(rated, 2):
            if means[a] != means[b]:
                yield _pair(rated[a][0], rated[b][0], means[a] - means[b])


def _pair(a: Rating, b: Rating, difference: float) -> Preference:
    margin = abs(difference)
    return Preference(
        a.prompt,
        a.medium,
        b.medium,
        "a" if difference > 0 else "b",
        strength=min(margin / (a.scale[1] - a.scale[0]), 1.0) if a.scale else None,
        margin=margin,
        criteria=a.criteria,
        instruction=a.instruction,
        source=_both(a.source, b.source),
        first_frame=a.first_frame,
    )


def _both(a: Source | None, b: Source | None) -> Source | None:
    if a is None or b is None:
        return a or b
    rows = [source.row for source in (a, b) if source.row]
    return Source(a.dataset, " ".join(rows) or None, a.license)
