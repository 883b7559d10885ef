"""Pick-a-Pic v2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..problems import Problem
from ..records import Choice, Preference, Source
from ..tables import parquet_rows
from .rows import checked, files_of, media_of, name_of

_COLUMNS: Final = ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label")
_CHOICES: Final[dict[tuple[float, float], Choice]] = {(1.0, 0.0): "a", (0.0, 1.0): "b", (0.5, 0.5): "tie"}


def read_pickapic(source: Path) -> Iterator[Preference | Problem]:
    """Read Pick-a-Pic v2 (https://huggingface.co/datasets/yuvalkirstain/pickapic_v2, arXiv 2305.01569).

    The layout is that of the card (`dataset_info`) and of `trainer/datasetss/clip_hf_dataset.py` in
    https://github.com/yuvalkirstain/PickScore: parquet files with, among others, the columns `caption`, `jpg_0` and
    `jpg_1` (the bytes of the pictures), `label_0` and `label_1` (1 and 0, or 0.5 each for a tie), `has_label` and
    `ranking_id`. Pick-a-Pic v1 has the same. Rows with `has_label` false hold no preference and are left out. The
    versions without images cannot be read: they hold addresses only, which no longer work.

    Several users judged some pairs; see :func:`diffusers_ext.data.merge`. The card names no license.
    """
    for file in files_of(source, ".parquet", "the parquet files of pickapic_v2, which hold the pictures"):
        for number, row in parquet_rows(file, _COLUMNS, ["ranking_id"]):
            if isinstance(row, Problem):
                yield row
                continue
            if row["has_label"] in (False, 0):
                continue
            choice = _CHOICES.get((row["label_0"], row["label_1"]))
            if choice is None:
                told = f"and label_1 are {row['label_0']} and {row['label_1']}; expected 1 and 0, 0 and 1, or 0.5 each"
                yield Problem(file.name, number, "label_0", told)
                continue
            origin = row.get("ranking_id")
            yield from checked(
                file,
                number,
                Preference,
                prompt=row["caption"],
                a=media_of(row["jpg_0"]),
                b=media_of(row["jpg_1"]),
                choice=choice,
                instruction="overall",
                source=Source("Pick-a-Pic", f"{name_of(file, source)}:{number}" if origin is None else str(origin)),
            )
