"""The pictures and videos that records name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from .problems import Problem
from .records import Media, Preference

_STARTS: Final = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"\x1aE\xdf\xa3", ".webm"),
)


class MediaFolder:
    """The folder that the paths of a data set are relative to. What was read once is remembered."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._digests: dict[str, str] = {}

    def complaint(self, medium: Media) -> str | None:
        """Why a medium cannot be used, or None if it is there: a file that is not empty, or a folder of frames."""
        if isinstance(medium, bytes):
            return None
        path = self.root / medium
        try:
            if path.is_dir():
                return None if any(path.iterdir()) else f"names {path}, which is an empty folder"
            if path.stat().st_size:
                return None
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or error
            return f"names {path}, which is not there ({told}); unpack the pictures there, or mend the path"
        return f"names {path}, which is an empty file; fetch it again"

    def digest(self, medium: Media) -> str:
        """What tells media apart: the SHA-256 of the file, or of the frames in their order, with their names.

        A file that cannot be read is told apart by its path.
        """
        if isinstance(medium, bytes):
            return hashlib.sha256(medium).hexdigest()
        if medium not in self._digests:
            path = self.root / medium
            try:
                self._digests[medium] = _digest_of_frames(path) if path.is_dir() else _digest_of_file(path)
            except (OSError, ValueError):
                self._digests[medium] = f"path:{os.path.normpath(medium)}"
        return self._digests[medium]


def _digest_of_file(path: Path) -> str:
    # hashlib.file_digest is not there in Python 3.10.
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _digest_of_frames(path: Path) -> str:
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    listed = "".join(f"{name}\n{_digest_of_file(path / name)}\n" for name in names)
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()


def complaints(record: Preference, media: MediaFolder) -> list[tuple[str, str]]:
    """What keeps a record's media from being used, each with the field that names it."""
    found = [(name, complaint) for name, medium in record.media.items() if (complaint := media.complaint(medium))]
    if isinstance(record.first_frame, str) and (media.root / record.first_frame).is_dir():
        told = f"names {media.root / record.first_frame}, a folder; a first frame is one picture"
        found.append(("first_frame", told))
    return found


def present(
    records: Iterable[Preference], media: MediaFolder, problems: list[Problem], file: str
) -> Iterator[Preference]:
    """The records whose media are there; for each of the others problems are put into the list."""
    for record in records:
        missing = [Problem(_place(record, file), None, *complaint) for complaint in complaints(record, media)]
        problems += missing
        if not missing:
            yield record


def embedded(records: Iterable[Preference], root: Path, problems: list[Problem], file: str) -> Iterator[Preference]:
    """The records with their media as bytes; folders of frames stay paths.

    Where a file cannot be read, or lies outside of the data set's folder, a problem is put into the list. (A data set
    from elsewhere could name files of the user's, who might then publish them.)
    """
    for record in records:
        media: dict[str, Media] = {}
        for name, medium in record.media.items():
            try:
                media[name] = _content(medium, root)
            except (OSError, ValueError) as error:
                told = getattr(error, "strerror", None) or error
                message = f"names {medium!r}, which cannot be put into the file ({told})"
                problems.append(Problem(_place(record, file), None, name, message))
        if len(media) == len(record.media):
            yield replace(record, **media)  # type: ignore[arg-type]


def _content(medium: Media, root: Path) -> Media:
    if isinstance(medium, bytes) or (root / medium).is_dir():
        return medium
    if not (root / medium).resolve().is_relative_to(root.resolve()):
        raise ValueError("it lies outside of the data set's folder")
    return (root / medium).read_bytes()


def _place(record: Preference, file: str) -> str:
    return f"{file} ({record.source.row})" if record.source and record.source.row else file


def relocate(record: Preference, old: Path, new: Path) -> Preference:
    """The same record for a data set in another folder; both folders as :meth:`pathlib.Path.resolve` gives them."""

    def moved(medium: Media) -> Media:
        return medium if isinstance(medium, bytes) else Path(os.path.relpath(old / medium, new)).as_posix()

    if old == new:
        return record
    return replace(record, **{name: moved(medium) for name, medium in record.media.items()})  # type: ignore[arg-type]


def file_name(content: bytes) -> str:
    """A name for a file with this content, which no other content has."""
    ending = next((ending for start, ending in _STARTS if content.startswith(start)), "")
    if content[:4] == b"RIFF":
        ending = {b"WEBP": ".webp", b"AVI ": ".avi"}.get(content[8:12], "")
    elif content[4:8] == b"ftyp":
        ending = ".avif" if content[8:12] == b"avif" else ".mp4"
    return f"{hashlib.sha256(content).hexdigest()}{ending}"
