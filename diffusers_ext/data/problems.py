"""What can be wrong with a data set: a whole file, or single rows of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..rewards.errors import RewardDanceError

Good = TypeVar("Good")


class DataError(RewardDanceError):
    """A data set that cannot be read or written at all."""


@dataclass(frozen=True)
class Complaint:
    """What is wrong with one field, what was expected, and how to mend it."""

    field: str
    message: str


class InvalidRecordError(DataError):
    """A record whose fields do not make sense.

    Attributes:
        complaints: all that is wrong with it.
    """

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("; ".join(f"{item.field} {item.message}" for item in self.complaints))


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used.

    Attributes:
        file: where it is.
        row: which row, counted from 1 (in JSONL, the line); None if it concerns the file.
        field: what of it.
        message: what is wrong, what was expected, how to mend it.
    """

    file: str
    row: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{place}: {self.field} {self.message}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def problems_of(file: str, row: int | None, error: InvalidRecordError) -> Iterator[Problem]:
    """One problem for each complaint about a record."""
    for item in error.complaints:
        yield Problem(file, row, item.field, item.message)


def sift(found: Iterable[Good | Problem], problems: list[Problem]) -> Iterator[Good]:
    """The good ones of what a reader finds; its problems are put into a list on the way."""
    for item in found:
        if isinstance(item, Problem):
            problems.append(item)
        else:
            yield item
