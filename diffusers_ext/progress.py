"""How far a long run has come, on stderr: a live bar on a terminal, and where there is none a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, SupportsFloat

EVERY: Final = 60.0
"""Seconds between two lines."""


class Advance(Protocol):
    def __call__(self, **figures: SupportsFloat) -> None:
        """Say that one more is done, and what there is to tell of it, if anything.

        Figures are read only when they are shown: to read one is to wait for the device that computes it.
        """


@contextmanager
def counted(title: str, total: int, start: int, shown: bool) -> Iterator[Advance]:
    """Show how many of `total` are done.

    Args:
        title: what is done, e.g. ``training``.
        total, start: how many there are, and how many had been done before.
        shown: whether anything is shown.
    """
    if not shown:
        yield _silence
    elif sys.stderr.isatty():
        with _bar(title, total, start) as advance:
            yield advance
    else:
        yield _lines(title, total, start)


def _silence(**figures: SupportsFloat) -> None:
    pass


def _told(figures: dict[str, SupportsFloat]) -> str:
    return " ".join(f"{name} {float(value):.4g}" for name, value in figures.items())


@contextmanager
def _bar(title: str, total: int, start: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[told]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=start, told="")
        yield lambda **figures: bar.update(task, advance=1, told=_told(figures))


def _lines(title: str, total: int, start: int) -> Advance:
    """The first, the last, and one for every minute between them: ``training: 12 of 90, 26 min to go, loss 0.12``."""
    done, begun, said = start, time.monotonic(), float("-inf")

    def advance(**figures: SupportsFloat) -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if now - said < EVERY and done < total:
            return
        said = now
        left = (now - begun) / (done - start) * (total - done)
        parts = (f"{title}: {done} of {total}", f"{left / 60:.0f} min to go", _told(figures))
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    return advance
