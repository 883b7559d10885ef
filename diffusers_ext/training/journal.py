"""What a run tells while it goes on: lines of JSON, and what trackers are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .errors import LoraTrainingError
from .monitors import Evaluation

METRICS: Final = "metrics.jsonl"


class Journal:
    """Figures of every iteration, and every evaluation, in one file.

    What a killed run wrote beyond its last saved state is cut off when it goes on.
    """

    def __init__(self, out: Path, start: int) -> None:
        self._path = out / METRICS
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [entry for line in lines if (entry := _entry(line)) is not None and _belongs(entry, start)]
        self.evaluations = [Evaluation(**entry["evaluation"]) for entry in kept if "evaluation" in entry]
        self.steps = [entry for entry in kept if "evaluation" not in entry]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        partial.replace(self._path)

    def has_evaluation(self, iteration: int) -> bool:
        return any(item.iteration == iteration for item in self.evaluations)

    def add_step(self, iteration: int, figures: dict[str, float]) -> None:
        entry: dict[str, Any] = {"iteration": iteration, **figures}
        self.steps.append(entry)
        self._write(entry)

    def add_evaluation(self, found: Evaluation, alarms: dict[str, str]) -> None:
        self.evaluations.append(found)
        self._write({"evaluation": found.as_dict(), "alarms": alarms})

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise LoraTrainingError(
                f"{self._path}: cannot be written ({error}). The state saved last is whole; make room and give the "
                "same command again"
            ) from error


def _belongs(entry: dict[str, Any], start: int) -> bool:
    # The evaluation before iteration `start` belongs to what has been; the step of that number is still to come.
    if "evaluation" in entry:
        return entry["evaluation"]["iteration"] <= start
    return entry["iteration"] < start


def _entry(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # half a line, where a run was killed
        return None
