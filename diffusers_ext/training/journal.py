"""What a run tells while it goes on: figures of every iteration, and every evaluation, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..metrics import Metrics
from .errors import LoraTrainingError
from .monitors import Evaluation


class Journal:
    """The run's file, as what the monitors need."""

    def __init__(self, out: Path, start: int) -> None:
        self._metrics = Metrics(out, lambda entry: _belongs(entry, start), LoraTrainingError)

    @property
    def evaluations(self) -> list[Evaluation]:
        return [Evaluation(**entry["evaluation"]) for entry in self._metrics.entries if "evaluation" in entry]

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [entry for entry in self._metrics.entries if "evaluation" not in entry]

    def has_evaluation(self, iteration: int) -> bool:
        return any(item.iteration == iteration for item in self.evaluations)

    def add_step(self, iteration: int, figures: dict[str, float]) -> None:
        self._metrics.add({"iteration": iteration, **figures})

    def add_evaluation(self, found: Evaluation, alarms: dict[str, str]) -> None:
        self._metrics.add({"evaluation": found.as_dict(), "alarms": alarms})


def _belongs(entry: dict[str, Any], start: int) -> bool:
    # The evaluation before iteration `start` belongs to what has been; the step of that number is still to come.
    if "evaluation" in entry:
        return entry["evaluation"]["iteration"] <= start
    return entry["iteration"] < start
