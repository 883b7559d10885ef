"""GenAI-Bench: votes of the GenAI-Arena."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..layout import import_parquet
from ..problems import DataError, Problem
from ..records import Choice, Preference, Source
from ..tables import parquet_rows
from .rows import FilesByName, checked, files_of, media_of, name_of

_CHOICES: Final[dict[str, Choice]] = {"leftvote": "a", "rightvote": "b", "tievote": "tie", "bothbad_vote": "tie"}


def read_genai_bench(source: Path) -> Iterator[Preference | Problem]:
    """Read GenAI-Bench (https://huggingface.co/datasets/TIGER-Lab/GenAI-Bench, arXiv 2406.04485; CC-BY-4.0).

    The layout is that of the card (`dataset_info`) and of `inference.py` in https://github.com/TIGER-AI-Lab/GenAI-Bench
    (votes) and `genaibench/utils.py` (videos)::

        image_generation/test*.parquet: prompt, left_model, left_image, right_model, right_image, vote_type
        video_generation/test*.parquet: prompt, left_model, left_video, right_model, right_video, vote_type
        image_edition/test*.parquet: source_prompt, ..., vote_type

    Votes are "leftvote" (a), "rightvote" (b), "tievote" and "bothbad_vote" (both a tie). Pictures are in the files.
    Videos are addresses in the data set tianleliphoebe/genai-arena-video-mp4: fetch them to any place in the folder,
    and they are found by their names. Of a folder that has the split `test_v1`, on which the publishers evaluate, that
    one is read; to read `test`, name its file.

    Edits of pictures (`image_edition`) are told as a problem: what they should be judged against, the picture before
    the edit, has no place in a record.

    Not certain: whether `test_v1` is a part of `test`. It is not the GenAI-Bench of arXiv 2406.13743 (VQAScore), which
    has ratings.
    """
    videos = FilesByName(source if source.is_dir() else source.parent, ".mp4")
    files = files_of(source, ".parquet", "image_generation/test*.parquet or video_generation/test*.parquet")
    evaluated = {file.parent for file in files if file.name.startswith("test_v1")}
    for file in files:
        if file.parent in evaluated and not file.name.startswith("test_v1") and file != source:
            continue
        kind = _kind_of(file)
        if kind is None:
            yield Problem(
                file.name, None, "source_image", "is what edits are judged against, which records cannot hold"
            )
            continue
        left, right = f"left_{kind}", f"right_{kind}"
        for number, row in parquet_rows(file, ("prompt", left, right, "vote_type")):
            if isinstance(row, Problem):
                yield row
                continue
            choice = _CHOICES.get(str(row["vote_type"]))
            if choice is None:
                known = ", ".join(_CHOICES)
                yield Problem(file.name, number, "vote_type", f"is {row['vote_type']!r}; expected one of {known}")
                continue
            a, b = (_medium(row[side], videos) for side in (left, right))
            name = "video-overall" if kind == "video" else "overall"
            origin = Source("GenAI-Bench", f"{name_of(file, source)}:{number}", "CC-BY-4.0")
            yield from checked(
                file, number, Preference, prompt=row["prompt"], a=a, b=b, choice=choice, instruction=name, source=origin
            )


def _kind_of(file: Path) -> str | None:
    pa, pq = import_parquet()
    try:
        names = pq.read_schema(file).names
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not a parquet file that can be read, or damaged ({error})") from error
    if "source_image" in names:
        return None
    return "video" if "left_video" in names else "image"


def _medium(cell: Any, videos: FilesByName) -> Any:
    medium = media_of(cell)
    return videos.find(medium.rpartition("/")[2]) if isinstance(medium, str) else medium
