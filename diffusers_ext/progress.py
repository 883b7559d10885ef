"""How far a long run has come, on stderr: a live bar on a terminal, and where there is none a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, SupportsFloat

EVERY: Final = 60.0
"""Seconds between two lines."""


class Progress(Protocol):
    def advance(self, **figures: SupportsFloat) -> None:
        """Say that one more is done, and what there is to tell of it, if anything.

        Figures are read only when they are shown: to read one is to wait for the device that computes it.
        """

    def say(self, text: str) -> None:
        """Show a line of its own, at once."""


@contextmanager
def counted(title: str, total: int, start: int, shown: bool) -> Iterator[Progress]:
    """Show how many of `total` are done.

    Args:
        title: what is done, e.g. ``training``.
        total, start: how many there are, and how many had been done before.
        shown: whether anything is shown.
    """
    if not shown:
        yield _Silence()
    elif sys.stderr.isatty():
        with _bar(title, total, start) as progress:
            yield progress
    else:
        yield _Lines(title, total, start)


class _Silence:
    def advance(self, **figures: SupportsFloat) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, **figures: SupportsFloat) -> None:
        self._bar.update(self._task, advance=1, told=_told(figures))

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)


@contextmanager
def _bar(title: str, total: int, start: int) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[told]}"), console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(title, total=total, completed=start, told=""))


class _Lines:
    """The first, the last, and one for every minute between them: ``training: 12 of 90, 26 min to go, loss 0.12``."""

    def __init__(self, title: str, total: int, start: int) -> None:
        self._title, self._total, self._start, self._done = title, total, start, start
        self._begun, self._said = time.monotonic(), float("-inf")

    def advance(self, **figures: SupportsFloat) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said < EVERY and self._done < self._total:
            return
        self._said = now
        left = (now - self._begun) / (self._done - self._start) * (self._total - self._done)
        parts = (f"{self._title}: {self._done} of {self._total}", f"{left / 60:.0f} min to go", _told(figures))
        self.say(", ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _told(figures: dict[str, SupportsFloat]) -> str:
    return " ".join(f"{name} {float(value):.4g}" for name, value in figures.items())
