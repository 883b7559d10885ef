"""Records together with where they and their media are, for those who have to open the media."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .media import MediaFolder, complaints
from .problems import DataError, Problem
from .reading import numbered
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

    def given(self) -> Path | Image.Image | None:
        """The first frame that both of the record's videos were to begin with, if it names one.

        Raises:
            DataError: it is a folder, or bytes that are no picture.
        """
        found = None if self.record.first_frame is None else self.open(self.record.first_frame)
        if isinstance(found, list):
            raise DataError(f"{self.place}: its first_frame is a folder; it has to be one picture")
        return found

    def open(self, medium: Media) -> Path | Image.Image | list[Image.Image]:
        """One of the record's media as a reward model takes it.

        Returns:
            The path of a file, the pictures of a folder of frames by their names, or the picture in bytes.

        Raises:
            DataError: the bytes are no picture.
            ImageError: a folder of frames holds something else.
        """
        from PIL import Image

        from ..rewards.videos import load_frames

        if isinstance(medium, str):
            path = self.folder / medium
            return list(load_frames(path)) if path.is_dir() else path
        try:
            return Image.open(io.BytesIO(medium))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{self.place}: its bytes are no picture ({error}); videos have to be files") from error


def locate(files: Sequence[str | Path]) -> tuple[list[Located], list[Problem]]:
    """All records of some files whose media are on the disk, and what is wrong with the others."""
    found: list[Located] = []
    problems: list[Problem] = []
    for file in map(Path, files):
        media = MediaFolder(file.parent)
        for number, record in numbered(file):
            if isinstance(record, Problem):
                problems.append(record)
                continue
            missing = [Problem(file.name, number, *complaint) for complaint in complaints(record, media)]
            problems += missing
            if not missing:
                found.append(Located(record, media.root, f"{file}, row {number}"))
    return found, problems
