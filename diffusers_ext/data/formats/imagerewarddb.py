"""ImageRewardDB."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..problems import Problem
from ..records import Preference, Source
from ..tables import Row, json_rows, parquet_rows
from .rows import checked, clean_path, files_of, name_of, same_length

_COLUMNS: Final = ("image_path", "prompt_id", "prompt", "rank")


def read_imagerewarddb(source: Path) -> Iterator[Preference | Problem]:
    """Read ImageRewardDB (https://huggingface.co/datasets/THUDM/ImageRewardDB, arXiv 2304.05977; Apache-2.0).

    The layout is that of the card and of its loading script, `ImageRewardDB.py`::

        metadata-{train,validation,test}.parquet
        images/train/train_1/{uuid}.webp, .../train_1.json    (as images/train/train_1.zip unpacks)

    A row of the metadata, or of the JSON arrays, which say the same, is a picture: `image_path`
    ("images/train/train_1/{uuid}.webp"), `prompt_id`, `prompt`, `rank` (1 is best) and ratings. Every two pictures of a
    `prompt_id` make a pair; the margin is their distance in places. Equal ranks are a tie (the publishers' script
    leaves these out).

    Of a folder the metadata are read, or the JSON files if there are none. A JSON array of prompts with `generations`
    and `ranking`, as `data/test.json` in https://github.com/THUDM/ImageReward (`train/src/rank_pair_dataset.py`), is
    read too; its pictures come with other folders and must be put beside the file.

    Not certain: the zip files were not seen, only how the script opens them (the pictures at their top level); unpack
    each into a folder of its name.
    """
    files = sorted(source.glob("metadata-*.parquet")) if source.is_dir() else []
    for file in files or files_of(source, ".json", "metadata-*.parquet, or the JSON files of its zip files"):
        pictures: dict[str, list[tuple[int, Row]]] = {}
        rows = parquet_rows(file, _COLUMNS) if file.suffix == ".parquet" else json_rows(file)
        for number, row in rows:
            if isinstance(row, Problem):
                yield row
            elif "generations" in row:
                yield from _ranked(file, number, row)
            elif not isinstance(row.get("rank"), (int, float)):
                yield Problem(file.name, number, "rank", f"is {row.get('rank')!r}; expected a number, 1 for the best")
            else:
                pictures.setdefault(str(row.get("prompt_id")), []).append((number, row))
        for prompt_id, found in pictures.items():
            paths = [clean_path(row.get("image_path")) for _, row in found]
            ranks = [row["rank"] for _, row in found]
            yield from _pairs(file, found[0][0], f"{name_of(file, source)}:{prompt_id}", found[0][1], paths, ranks)


def _ranked(file: Path, number: int, row: Row) -> Iterator[Preference | Problem]:
    paths: Any = row["generations"]
    ranks: Any = row.get("ranking")
    if not same_length(paths, ranks) or not all(isinstance(rank, (int, float)) for rank in ranks):
        message = "and generations must be lists of one length, the former of numbers"
        yield Problem(file.name, number, "ranking", message)
        return
    yield from _pairs(file, number, str(row.get("id") or number), row, paths, ranks)


def _pairs(file: Path, number: int, origin: str, row: Row, paths: Any, ranks: Any) -> Iterator[Preference | Problem]:
    for i, j in itertools.combinations(range(len(paths)), 2):
        lead = ranks[j] - ranks[i]
        yield from checked(
            file,
            number,
            Preference,
            prompt=row.get("prompt"),
            a=paths[i],
            b=paths[j],
            choice="a" if lead > 0 else "b" if lead < 0 else "tie",
            margin=float(abs(lead)) if lead else None,
            instruction="overall",
            source=Source("ImageRewardDB", f"{origin}:{i}-{j}", "Apache-2.0"),
        )
