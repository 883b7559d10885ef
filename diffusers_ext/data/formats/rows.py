"""What the readers share: finding files, and making records of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..problems import DataError, InvalidRecordError, Problem, problems_of
from ..records import Media, Preference, Rating

Record = TypeVar("Record", bound="Preference | Rating")


def files_of(source: Path, ending: str, holds: str) -> list[Path]:
    """The source itself if it is a file, or all files in it that have the ending, at any depth, by name.

    Raises:
        DataError: there are none.
    """
    if source.is_file():
        return [source]
    if found := sorted(file for file in source.rglob(f"*{ending}") if file.is_file()):
        return found
    raise DataError(f"{source}: holds no {ending} files; expected {holds}")


def name_of(file: Path, source: Path) -> str:
    """How a file of the source is called in problems and in the source of a record: by its path, without its ending."""
    return (file.relative_to(source) if source.is_dir() else Path(file.name)).with_suffix("").as_posix()


def checked(file: Path, row: int, kind: type[Record], **values: Any) -> Iterator[Record | Problem]:
    """A record of the values, or what is wrong with them."""
    try:
        yield kind(**values)
    except InvalidRecordError as error:
        yield from problems_of(file.name, row, error)


def media_of(cell: Any) -> Media:
    """The picture in a cell, as the `datasets` library writes it: bytes, or a record of bytes and a path."""
    if isinstance(cell, dict):
        return cell.get("bytes") or cell.get("path")  # type: ignore[return-value]
    return cell


def clean_path(path: Any) -> Any:
    """A path without `./` in front."""
    return path.removeprefix("./") if isinstance(path, str) else path


def same_length(*values: Any) -> bool:
    """Whether all are lists, with as many items each."""
    return all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1


class FilesByName:
    """Files below a folder, found by their names."""

    def __init__(self, root: Path, ending: str) -> None:
        self._found = {file.name: file.relative_to(root).as_posix() for file in sorted(root.rglob(f"*{ending}"))}

    def find(self, name: str) -> str:
        """The path of the file with a name, relative to the folder; the name itself if there is none."""
        return self._found.get(name, name)
