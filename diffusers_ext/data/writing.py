"""Write files of preferences, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from .layout import MEDIA_FOLDER, import_parquet, layout_of, parquet_schema
from .media import file_name
from .problems import DataError
from .records import Media, Preference

_ROWS_PER_GROUP: Final = 1024
_BYTES_PER_GROUP: Final = 64 * 2**20


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears, or replaces the one that is there, only once all of it is on the disk.

    If the writing fails, or the process or the machine dies, the old file is left as it was.

    Raises:
        DataError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write(path: str | Path, records: Iterable[Preference]) -> int:
    """Write preferences to a JSONL or parquet file, whole or not at all; see :func:`whole_file`.

    Media are written as the records have them: paths, which are relative to the folder of the file, or bytes. JSONL
    cannot hold bytes, so these become files in the folder `media` beside it, named by their content.

    Args:
        path: what to write; it ends in .jsonl or .parquet. Folders are made as needed.
        records: taken one at a time, so that they need not fit into memory. If getting them fails, nothing is written.

    Returns:
        How many were written.

    Raises:
        DataError: another ending, or it cannot be written.
    """
    path = Path(path)
    layout = layout_of(path)
    with whole_file(path) as file:
        return _write_jsonl(file, path.parent, records) if layout == "jsonl" else _write_parquet(file, records)


def _write_jsonl(file: BinaryIO, folder: Path, records: Iterable[Preference]) -> int:
    count = 0
    for record in records:
        row = {name: value for name, value in record.as_row().items() if value not in (None, [])}
        row |= {name: _as_path(medium, folder) for name, medium in record.media.items()}
        if record.source:
            row["source"] = {name: value for name, value in row["source"].items() if value is not None}
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        count += 1
    return count


def _as_path(medium: Media, folder: Path) -> str:
    if isinstance(medium, str):
        return medium
    path = folder / MEDIA_FOLDER / file_name(medium)
    if not path.exists():
        with whole_file(path) as file:
            file.write(medium)
    return f"{MEDIA_FOLDER}/{path.name}"


def _write_parquet(file: BinaryIO, records: Iterable[Preference]) -> int:
    pa, pq = import_parquet()
    schema = parquet_schema()
    count = 0
    with pq.ParquetWriter(file, schema) as writer:
        for group in _groups(records):
            writer.write_table(pa.Table.from_pylist(group, schema))
            count += len(group)
    return count


def _groups(records: Iterable[Preference]) -> Iterator[list[dict[str, Any]]]:
    """Rows that are few and small enough to be held in memory together."""
    group: list[dict[str, Any]] = []
    size = 0
    for record in records:
        group.append(record.as_row())
        size += sum(len(medium) for medium in record.media.values())
        if len(group) == _ROWS_PER_GROUP or size >= _BYTES_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
