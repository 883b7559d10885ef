"""Ratings of your own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..problems import InvalidRecordError, Problem, problems_of
from ..ratings import pairs_from_ratings
from ..records import Preference, Rating
from ..tables import jsonl_rows


def read_own_ratings(source: Path) -> Iterator[Preference | Problem]:
    """Make pairs of a JSONL file of ratings; see `pairs_from_ratings`.

    A line has the fields of :class:`diffusers_ext.data.Rating`, of which `prompt`, `medium` and `rating` are needed::

        {"prompt": "a red fox", "medium": "fox1.png", "rating": 4, "scale": [1, 5], "criteria": ["aesthetics"]}
    """
    return pairs_from_ratings(_ratings(source))


def _ratings(source: Path) -> Iterator[Rating | Problem]:
    for number, row in jsonl_rows(source):
        if isinstance(row, Problem):
            yield row
            continue
        try:
            yield Rating.from_row(row)
        except InvalidRecordError as error:
            yield from problems_of(source.name, number, error)
