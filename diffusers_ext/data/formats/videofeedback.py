"""VideoFeedback, the data of VideoScore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..problems import Problem
from ..ratings import pairs_from_ratings
from ..records import Preference, Rating, Source
from ..tables import Row, parquet_rows
from .rows import FilesByName, checked, files_of, name_of

SCALE: Final = (1.0, 4.0)
_ASPECTS: Final[dict[str, tuple[str, str | None]]] = {
    "visual quality": ("visual quality", None),
    "temporal consistency": ("temporal consistency", None),
    "dynamic degree": ("dynamic degree", None),
    "text-to-video alignment": ("alignment", "video-alignment"),
    "factual consistency": ("factual consistency", None),
}
"""The criterion and the instruction that each of the five ratings is about."""


def read_videofeedback(source: Path) -> Iterator[Preference | Problem]:
    """Make pairs of the ratings of VideoFeedback; see :func:`read_videofeedback_ratings` and `pairs_from_ratings`."""
    return pairs_from_ratings(read_videofeedback_ratings(source))


def read_videofeedback_ratings(source: Path) -> Iterator[Rating | Problem]:
    """Read VideoFeedback (https://huggingface.co/datasets/TIGER-Lab/VideoFeedback, arXiv 2406.15252; Apache-2.0).

    The layout is that of the card (`dataset_info`) and of `training/` in https://github.com/TIGER-AI-Lab/VideoScore::

        {annotated,real}/{train,test}-*.parquet: id, images, text prompt, video link, the five ratings, conversations
        images/{id}/{id}_{frame}.jpg                  (as frames_annotated_train.zip unpacks into `images`)

    The five are rated from 1 to 4: visual quality, temporal consistency, dynamic degree, text-to-video alignment and
    factual consistency, which become criteria (the fourth: "alignment").

    A video is an .mp4 file with the name that `video link` has (they are in the data set
    hexuan21/VideoFeedback-videos-mp4), at any place in the folder; or else the folder of its frames, `images/{id}`.
    """
    videos = FilesByName(source if source.is_dir() else source.parent, ".mp4")
    for file in files_of(source, ".parquet", "{annotated,real}/{train,test}-*.parquet"):
        for number, row in parquet_rows(file, ("id", "images", "text prompt", "video link", *_ASPECTS)):
            if isinstance(row, Problem):
                yield row
                continue
            origin = Source("VideoFeedback", f"{name_of(file, source)}:{row['id']}", "Apache-2.0")
            medium = _video(row, videos)
            for aspect, (criterion, instruction) in _ASPECTS.items():
                yield from checked(
                    file,
                    number,
                    Rating,
                    prompt=row["text prompt"],
                    medium=medium,
                    rating=row[aspect],
                    scale=SCALE,
                    criteria=(criterion,),
                    instruction=instruction,
                    source=origin,
                )


def _video(row: Row, videos: FilesByName) -> Any:
    link = row["video link"]
    name = link.rpartition("/")[2] if isinstance(link, str) else f"{row['id']}.mp4"
    path = videos.find(name)
    if path == name and row["images"]:
        return f"images/{str(row['images'][0]).split('_')[0]}"
    return path
