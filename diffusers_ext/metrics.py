"""Figures of a run as lines of JSON, which a run that goes on finds as they were at its last saved state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .configuring import Wrong

FILE: Final = "metrics.jsonl"
Entry = dict[str, Any]


def read_entries(path: Path) -> list[Entry]:
    """The lines of a file of figures; none where there is no file. A line that is half written is left out.

    Raises:
        OSError: the file is there and cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [entry for line in lines if (entry := _entry(line)) is not None]


class Metrics:
    """The file of a run.

    Attributes:
        entries: all of its lines.
    """

    def __init__(self, out: Path, belongs: Callable[[Entry], bool], wrong: Wrong) -> None:
        """Open it; what a killed run wrote beyond its last saved state is cut off.

        Args:
            out: the run's folder.
            belongs: whether a line is of what has been done up to that state.
            wrong: what is raised.
        """
        self._path, self._wrong = out / FILE, wrong
        self.entries = [entry for entry in read_entries(self._path) if belongs(entry)]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries), encoding="utf-8")
        partial.replace(self._path)

    def add(self, entry: Entry) -> None:
        """Write one more line.

        Raises:
            RewardDanceError: (as the run's own) it cannot be written.
        """
        self.entries.append(entry)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise self._wrong(
                f"{self._path}: cannot be written ({error}). The state saved last is whole; make room and give the "
                "same command again"
            ) from error


def _entry(line: str) -> Entry | None:
    try:
        return json.loads(line)
    except ValueError:  # half a line, where a run was killed
        return None
