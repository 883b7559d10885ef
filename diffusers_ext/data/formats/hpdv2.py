"""Human Preference Dataset v2."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..problems import Problem
from ..records import Preference, Source
from ..tables import Row, json_rows
from .rows import checked, files_of, name_of, same_length

_FILES: Final = ("train.json", "test.json")


def read_hpdv2(source: Path) -> Iterator[Preference | Problem]:
    """Read HPD v2 (https://huggingface.co/datasets/ymhao/HPDv2, arXiv 2306.09341; Apache-2.0).

    The layout is that of the data set's card and of https://github.com/tgxs002/HPSv2 ("Data Structure" in its README,
    `hpsv2/src/training/data.py`)::

        train/{image_id}.jpg
        test/{image_id}.jpg
        train.json: [{"human_preference": [1, 0], "prompt": ..., "file_path": [..., ...]}, ...]
        test.json: [{"prompt": ..., "image_path": [...], "rank": [...], "raw_annotations": [{"rank": ..., ...}]}, ...]

    In training rows, 1 marks the preferred picture; two pictures marked alike are a tie. In test rows a lower rank is
    better, and every two pictures make a pair: the margin is their distance in places, and the strength the lead of the
    winner among the annotators, where their rankings say the same as `rank` does. Names of pictures are looked for
    beside the file and, as the tar files unpack, in the folder of the split.

    Not certain: the card does not say whether the annotators' own `rank` lists are in the order of `image_path`; a
    strength is given only where they agree with `rank` when read so.
    """
    root = source if source.is_dir() else source.parent
    named = [file for file in map(source.joinpath, _FILES) if file.is_file()] if source.is_dir() else [source]
    for file in named or files_of(source, ".json", " and ".join(_FILES)):
        for number, row in json_rows(file):
            if isinstance(row, Problem):
                yield row
                continue
            where = f"{name_of(file, source)}:{number}"
            read = _training_pairs if "human_preference" in row else _ranked_pairs
            yield from read(file, number, row, where, root)


def _training_pairs(file: Path, number: int, row: Row, where: str, root: Path) -> Iterator[Preference | Problem]:
    names: Any = row.get("file_path")
    marks: Any = row.get("human_preference")
    if not same_length(names, marks) or not all(mark in (0, 1) for mark in marks):
        message = "and file_path must be lists of one length, the former of 0 and 1"
        yield Problem(file.name, number, "human_preference", message)
        return
    for i, j in itertools.combinations(range(len(names)), 2):
        if marks[i] == marks[j] and len(names) > 2:
            continue  # neither was preferred to the other
        choice = "tie" if marks[i] == marks[j] else "a" if marks[i] else "b"
        values = _values(file, row, where, root, names, i, j)
        yield from checked(file, number, Preference, choice=choice, **values)


def _ranked_pairs(file: Path, number: int, row: Row, where: str, root: Path) -> Iterator[Preference | Problem]:
    names: Any = row.get("image_path")
    ranks: Any = row.get("rank")
    if not same_length(names, ranks) or not all(isinstance(rank, (int, float)) for rank in ranks):
        message = "and image_path must be lists of one length, the former of numbers (training rows: human_preference)"
        yield Problem(file.name, number, "rank", message)
        return
    annotations = row.get("raw_annotations")
    ballots = [
        ballot["rank"]
        for ballot in (annotations if isinstance(annotations, list) else [])
        if isinstance(ballot, dict) and same_length(ballot.get("rank"), names)
    ]
    for i, j in itertools.combinations(range(len(names)), 2):
        lead = ranks[j] - ranks[i]
        values = _values(file, row, where, root, names, i, j)
        if lead:
            values |= {"margin": float(abs(lead)), "strength": _agreement(ballots, i, j, lead)}
        yield from checked(file, number, Preference, choice="a" if lead > 0 else "b" if lead < 0 else "tie", **values)


def _agreement(ballots: list[list[Any]], i: int, j: int, lead: float) -> float | None:
    """The lead of the winner among the annotators, if it is theirs too."""
    votes = [(ballot[j] > ballot[i]) - (ballot[j] < ballot[i]) for ballot in ballots]
    total = sum(votes)
    return abs(total) / len(votes) if votes and total * lead > 0 else None


def _values(file: Path, row: Row, where: str, root: Path, names: Any, i: int, j: int) -> dict[str, Any]:
    origin = where if len(names) == 2 else f"{where}:{i}-{j}"
    return {
        "prompt": row.get("prompt"),
        "a": _path(root, file, names[i]),
        "b": _path(root, file, names[j]),
        "instruction": "overall",
        "source": Source("HPDv2", origin, "Apache-2.0"),
    }


def _path(root: Path, file: Path, name: Any) -> Any:
    if not isinstance(name, str) or file.name not in _FILES or (root / name).is_file():
        return name
    return f"{file.stem}/{name}"
