"""MJ-Bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..problems import DataError, Problem
from ..records import Choice, Preference, Source
from ..tables import parquet_rows
from .rows import checked, files_of, media_of, name_of

_COLUMNS: Final = ("caption", "image0", "image1", "label")
_CHOICES: Final[dict[int, Choice]] = {0: "a", 1: "b"}
_PERSPECTIVES: Final = ("alignment", "safety", "quality", "bias", "composition", "visualization")


def read_mj_bench(source: Path) -> Iterator[Preference | Problem]:
    """Read MJ-Bench (https://huggingface.co/datasets/MJ-Bench/MJ-Bench, arXiv 2407.04842).

    Two layouts were published. That of the paper, from `dataset.py` and `inference.py` in
    https://github.com/MJ-Bench/MJ-Bench: a parquet file for each perspective (`data/alignment.parquet`, ...) with the
    columns `caption`, `image0`, `image1`, `label` and `info`. That of the card today: the first four, `category`,
    `subcategory` and `model`. `label` is the index of the preferred picture; the card says that it is always 0, so swap
    pairs in training. The criterion is the category, or else the perspective that the file is named after.

    Files without two pictures to a row, as the perspective bias had them, are told as a problem.

    Not certain: the data set is behind a form and was not seen; the card says no license, and the name of a file is
    taken for its perspective where it is one of those of the paper.
    """
    for file in files_of(source, ".parquet", "data/{alignment,safety,quality}.parquet"):
        name = name_of(file, source)
        perspective = next((item for item in _PERSPECTIVES if item in name.lower()), None)
        try:
            for number, row in parquet_rows(file, _COLUMNS, ["category"]):
                if isinstance(row, Problem):
                    yield row
                    continue
                choice = _CHOICES.get(row["label"])
                if choice is None:
                    yield Problem(file.name, number, "label", f"is {row['label']!r}; expected 0 or 1")
                    continue
                criterion = str(row.get("category") or perspective or "").strip().lower()
                yield from checked(
                    file,
                    number,
                    Preference,
                    prompt=row["caption"],
                    a=media_of(row["image0"]),
                    b=media_of(row["image1"]),
                    choice=choice,
                    criteria=(criterion,) if criterion else (),
                    instruction="alignment" if criterion == "alignment" else None,
                    source=Source("MJ-Bench", f"{name}:{number}"),
                )
        except DataError as error:
            yield Problem(file.name, None, "file", f"was left out ({error})")
