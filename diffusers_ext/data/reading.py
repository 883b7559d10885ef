"""Read files of preferences."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .layout import COLUMNS, REQUIRED, import_parquet, layout_of
from .problems import DataError, InvalidRecordError, Problem, problems_of, sift
from .records import Preference
from .tables import Row, jsonl_rows, parquet_rows


@dataclass(frozen=True)
class Loaded:
    """A whole file.

    Attributes:
        records: those that are well formed, in order.
        problems: what is wrong with the others.
    """

    records: tuple[Preference, ...]
    problems: tuple[Problem, ...]


def load(path: str | Path) -> Loaded:
    """Read a whole file; see :func:`read`."""
    problems: list[Problem] = []
    return Loaded(tuple(sift(read(path), problems)), tuple(problems))


def read(path: str | Path) -> Iterator[Preference | Problem]:
    """Read a JSONL or parquet file row by row; what is wrong with a row comes in its place, and the rest is kept.

    Paths of media are left as they are: relative to the folder of the file.

    Args:
        path: a file that ends in .jsonl or .parquet. For its layout see docs/data.md.

    Raises:
        DataError: no such file, another ending, or a parquet file that is damaged or lacks a column.
    """
    return (item for _, item in numbered(path))


def numbered(path: str | Path) -> Iterator[tuple[int, Preference | Problem]]:
    """What :func:`read` finds, with the number of the row, counted from 1 (in JSONL, of the line)."""
    path = Path(path)
    for number, row in _rows(path):
        if isinstance(row, Problem):
            yield number, row
            continue
        try:
            yield number, Preference.from_row(row)
        except InvalidRecordError as error:
            yield from ((number, problem) for problem in problems_of(path.name, number, error))


def _rows(path: Path) -> Iterator[tuple[int, Row | Problem]]:
    if layout_of(path) == "jsonl":
        return jsonl_rows(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    _refuse_misspelt_columns(path)
    return parquet_rows(path, REQUIRED, [name for name in COLUMNS if name not in REQUIRED])


def _refuse_misspelt_columns(path: Path) -> None:
    pa, pq = import_parquet()
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a parquet file that can be read, or damaged ({error})") from error
    for name in names:
        if name not in COLUMNS and (near := difflib.get_close_matches(name, COLUMNS, 1, cutoff=0.8)):
            raise DataError(f"{path}: the column {name!r} is not one of a record; did you mean {near[0]!r}?")
