"""Records together with where they and their media are, for those who have to open the media."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .media import MediaFolder
from .problems import DataError, Problem
from .reading import load
from .records import Media, Preference

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Located:
    """A record.

    Attributes:
        record: what it says.
        folder: what the paths of its media are relative to.
        place: where it stands, for people.
    """

    record: Preference
    folder: Path
    place: str

    def open(self, medium: Media) -> Path | Image.Image:
        """One of the record's media as a reward model takes it: the path of a file, or the picture in the bytes.

        Raises:
            DataError: the bytes are no picture.
        """
        if isinstance(medium, str):
            return self.folder / medium
        from PIL import Image

        try:
            return Image.open(io.BytesIO(medium))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self.place}: its bytes are no picture ({error}); videos have to be files") from error


def locate(files: Sequence[str | Path]) -> tuple[list[Located], list[Problem]]:
    """All records of some files whose media are on the disk, and what is wrong with the others."""
    found: list[Located] = []
    problems: list[Problem] = []
    for file in map(Path, files):
        loaded, media = load(file), MediaFolder(file.parent)
        problems += loaded.problems
        for number, record in enumerate(loaded.records, start=1):
            complaints = [(name, media.complaint(medium)) for name, medium in (("a", record.a), ("b", record.b))]
            missing = [Problem(file.name, number, name, text) for name, text in complaints if text is not None]
            problems += missing
            if not missing:
                found.append(Located(record, media.root, f"{file}, record {number}"))
    return found, problems
