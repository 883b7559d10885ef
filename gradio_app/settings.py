"""What the page is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What whoever starts the page decides; visitors choose among what is named here and nothing else.

    Attributes:
        judges: reward models: folders, hub ids or URLs of served ones. None of them: the nano judges.
        pipelines: diffusers pipelines: folders or hub ids. None of them: the nano generator.
        device: where to run; None for a GPU if there is one.
        votes: the SQLite file of the arena.
        runs: the folder of training runs.
        recipes: what may be trained: configurations of `train-lora`, files or names of shipped ones. None of them: the
            shipped ones of the pipelines.
        trains: whether there is a tab Training.
        most_samples: the largest N of a search.
        most_waiting: how many requests may wait; the next one is told that the queue is full.
        most_megabytes: the largest file that can be uploaded.
    """

    judges: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    device: str | None = None
    votes: Path = Path("votes.sqlite")
    runs: Path = Path("runs")
    recipes: tuple[str, ...] = ()
    trains: bool = True
    most_samples: int = 64
    most_waiting: int = 64
    most_megabytes: int = 20
