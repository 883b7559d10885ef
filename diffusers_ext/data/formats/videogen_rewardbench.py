"""VideoGen-RewardBench, and training data in the layout of VideoAlign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..problems import Problem
from ..records import Choice, Preference, Source
from ..tables import csv_rows
from .rows import checked, clean_path, files_of, name_of

_CHOICES: Final[dict[str, Choice]] = {"A": "a", "B": "b", "same": "tie"}
_NO_VERDICT: Final = ("invalid", "")
_DIMENSIONS: Final[dict[str, tuple[tuple[str, ...], str | None]]] = {
    "VQ": (("visual quality",), None),
    "MQ": (("motion",), "video-motion"),
    "TA": (("alignment",), "video-alignment"),
    "Overall": ((), "video-overall"),
}
"""The criteria and the instruction that each column is about."""


def read_videogen_rewardbench(source: Path) -> Iterator[Preference | Problem]:
    """Read VideoGen-RewardBench (https://huggingface.co/datasets/KlingTeam/VideoGen-RewardBench; Apache-2.0).

    The layout is that of the card and, for training data, of `datasets/train/README.md` in
    https://github.com/KwaiVGI/VideoAlign (arXiv 2501.13918)::

        videogen-rewardbench.csv: path_A, path_B, A_model, B_model, prompt, VQ, MQ, TA, Overall, fps_A, ...
        videos/{model}/{video}.mp4

    Each dimension (visual quality, motion quality, text alignment, overall) becomes a record of its own: "A" or "B" is
    the better one, "same" a tie. "invalid" and empty cells hold no verdict and are left out, as `data.py` there does.
    The names of the dimensions were written differently by the publishers over time; these are the ones of the CSV.
    """
    for file in files_of(source, ".csv", "videogen-rewardbench.csv"):
        for number, row in csv_rows(file, ("path_A", "path_B", "prompt", "VQ", "MQ", "TA")):
            if isinstance(row, Problem):
                yield row
                continue
            for column, (criteria, instruction) in _DIMENSIONS.items():
                verdict = (row.get(column) or "").strip()
                if verdict in _NO_VERDICT:
                    continue
                if verdict not in _CHOICES:
                    yield Problem(file.name, number, column, f"is {verdict!r}; expected A, B, same or invalid")
                    continue
                yield from checked(
                    file,
                    number,
                    Preference,
                    prompt=row["prompt"],
                    a=clean_path(row["path_A"]),
                    b=clean_path(row["path_B"]),
                    choice=_CHOICES[verdict],
                    criteria=criteria,
                    instruction=instruction,
                    source=Source("VideoGen-RewardBench", f"{name_of(file, source)}:{number}:{column}", "Apache-2.0"),
                )
