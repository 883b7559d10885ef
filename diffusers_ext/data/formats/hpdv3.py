"""Human Preference Dataset v3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..problems import Problem
from ..records import Preference, Source
from ..tables import json_rows
from .rows import checked, clean_path, files_of, name_of

_FILES: Final = ("train.json", "all.json", "test.json")


def read_hpdv3(source: Path, min_confidence: float = 0.0) -> Iterator[Preference | Problem]:
    """Read HPD v3 (https://huggingface.co/datasets/MizzenAI/HPDv3, arXiv 2508.03789; MIT).

    The layout is that of the card, and of "Pairwise Training Data Format" in the README of
    https://github.com/MizzenAI/HPSv3::

        images/{uuid}.jpg
        all.json, train.json, test.json: [{
            "prompt": ..., "path1": "images/...", "path2": "images/...", "model1": ..., "model2": ...,
            "choice_dist": [12, 7] or null, "confidence": 0.99 or null
        }, ...]

    `path1` is always the preferred picture, so swap pairs in training. The strength is its lead in `choice_dist`, the
    numbers of votes for either, where there is one; it is left out where the votes went the other way (the publishers
    weigh annotators by their skill). `test.json` has neither votes nor confidence.

    Of a folder `train.json` (or else `all.json`, of which it is a sample) and `test.json` are read. `train.json`,
    `pickapic.json` and `imagereward.json` name pictures of other data sets too, which must be fetched from there.

    Args:
        source: the folder, or one of the files.
        min_confidence: leave out pairs whose `confidence` is known and lower; the publishers train on 0.95.
    """
    files = [source] if source.is_file() else [file for file in map(source.joinpath, _FILES) if file.is_file()]
    if source.is_dir() and source / "train.json" in files:
        files = [file for file in files if file.name != "all.json"]
    for file in files or files_of(source, ".json", ", ".join(_FILES)):
        for number, row in json_rows(file):
            if isinstance(row, Problem):
                yield row
                continue
            confidence = row.get("confidence")
            if isinstance(confidence, (int, float)) and confidence < min_confidence:
                continue
            yield from checked(
                file,
                number,
                Preference,
                prompt=row.get("prompt"),
                a=clean_path(row.get("path1")),
                b=clean_path(row.get("path2")),
                choice="a",
                strength=_lead(row.get("choice_dist")),
                instruction="overall",
                source=Source("HPDv3", f"{name_of(file, source)}:{number}", "MIT"),
            )


def _lead(votes: Any) -> float | None:
    if not isinstance(votes, list) or len(votes) != 2 or not all(isinstance(vote, (int, float)) for vote in votes):
        return None
    for_a, for_b = votes
    return (for_a - for_b) / (for_a + for_b) if for_a > for_b >= 0 else None
