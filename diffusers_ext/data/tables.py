"""Rows of JSON, JSONL, CSV and parquet files, one at a time; what is damaged is told, and the rest is kept."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .layout import import_parquet
from .problems import DataError, Problem

Row: TypeAlias = dict[str, Any]
_ROWS_PER_BATCH = 64


def jsonl_rows(path: Path) -> Iterator[tuple[int, Row | Problem]]:
    """The objects of a JSONL file by the numbers of their lines. Blank lines are passed over.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                # Some editors put a byte order mark in front.
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, _object(path, number, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _object(path: Path, number: int, line: bytes) -> Row | Problem:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Problem(path.name, number, "row", f"is not UTF-8 ({error.reason}); save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        told = f"is no JSON ({error})" if line.endswith(b"\n") else f"is no JSON, perhaps cut off ({error})"
        return Problem(path.name, number, "row", f"{told}; expected one object on one line")
    if not isinstance(found, dict):
        return Problem(path.name, number, "row", "is no object; expected one on each line")
    return found


def json_rows(path: Path) -> Iterator[tuple[int, Row | Problem]]:
    """The objects of a file that is one JSON array, counted from 1; of a file that breaks off, those before the break.

    Raises:
        DataError: the file cannot be read, or is no array.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason})") from error
    decoder = json.JSONDecoder()
    place, number = _past_blanks(text, 0), 0
    if text[place : place + 1] != "[":
        raise DataError(f"{path}: expected a JSON array of objects")
    place = _past_blanks(text, place + 1)
    while text[place : place + 1] != "]":
        number += 1
        try:
            if number > 1:
                place = _past_comma(text, place)
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            message = f"is no JSON, and nothing after it was read ({error}); perhaps the file was not fetched whole"
            yield number, Problem(path.name, number, "row", message)
            return
        if isinstance(found, dict):
            yield number, found
        else:
            yield number, Problem(path.name, number, "row", "is no object; expected one for each row")
        place = _past_blanks(text, place)


def _past_comma(text: str, place: int) -> int:
    if text[place : place + 1] != ",":
        raise json.JSONDecodeError("expected a comma or the end of the array", text, place)
    return _past_blanks(text, place + 1)


def _past_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def csv_rows(path: Path, required: Collection[str]) -> Iterator[tuple[int, Row | Problem]]:
    """The rows of a CSV file with a header, counted from 1 after it.

    Raises:
        DataError: the file cannot be read, or lacks a required column.
    """
    # A prompt can be longer than the 128 KiB at which the reader gives up by itself.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _require(path, reader.fieldnames or (), required)
            for number, row in enumerate(reader, start=1):
                if None in row:
                    yield number, Problem(path.name, number, "row", "has more cells than the header; quote its commas")
                elif None in row.values():
                    yield number, Problem(path.name, number, "row", "has fewer cells than the header; perhaps cut off")
                else:
                    yield number, row
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from error


def parquet_rows(
    path: Path, required: Collection[str], optional: Collection[str] = ()
) -> Iterator[tuple[int, Row | Problem]]:
    """The rows of a parquet file, counted from 1, with the columns named, of which the optional ones may be missing.

    Raises:
        DataError: the file cannot be read, or lacks a required column.
    """
    pa, pq = import_parquet()
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _require(path, names, required)
            wanted = [*required, *(name for name in optional if name in names)]
            number = 0
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=wanted):
                for row in _rows_of(path, batch, number):
                    number += 1
                    yield number, row
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a parquet file that can be read, or damaged ({error})") from error


def _rows_of(path: Path, batch: Any, before: int) -> Iterator[Row | Problem]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        # A column of texts can hold what is none.
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield Problem(path.name, before + index + 1, "row", f"holds a text that is not UTF-8 ({error.reason})")


def _require(path: Path, names: Sequence[str], required: Collection[str]) -> None:
    if missing := [name for name in required if name not in names]:
        raise DataError(f"{path}: has no column {missing[0]!r}; it has {', '.join(names) or 'none'}")
