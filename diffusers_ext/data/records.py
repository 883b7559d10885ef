"""The records: two media compared for one prompt, and one medium rated for it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from .problems import Complaint, InvalidRecordError

Choice = Literal["a", "b", "tie"]
CHOICES: Final[tuple[Choice, ...]] = get_args(Choice)
Media: TypeAlias = str | bytes
"""A picture or a video: a path relative to the data set's folder, or the bytes of the file."""

Record = TypeVar("Record", bound="Preference | Rating")


@dataclass(frozen=True)
class Source:
    """Where a record comes from.

    Attributes:
        dataset: name of the published data set.
        row: what identifies the row there.
        license: the data set's license, by its SPDX name where it has one; None if it is not known.
    """

    dataset: str
    row: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class Preference:
    """Which of two media is better for a prompt.

    Attributes:
        prompt: what they were made for.
        a: a picture or a video, as a path relative to the data set's folder (POSIX style) or as bytes. A folder of
            frames counts as a video.
        b: the other one.
        choice: the better one, or "tie".
        strength: how clear the choice is, in [0, 1]: the lead of the winner's votes as a share of all votes, or an
            equivalent of it. 1 is unanimous. None if it is not known.
        margin: how far apart the two were rated or ranked, in the source's own units, 0 or more.
        criteria: names of what was compared, e.g. ``("alignment",)``; empty for an overall verdict.
        instruction: name of the instruction to judge by (see :mod:`diffusers_ext.rewards.instructions`).
        rationale: the reasons that were given.
        source: where it comes from.
        first_frame: the picture that both were to begin with (image-to-video), as a path or as bytes.

    Raises:
        InvalidRecordError: a field is missing, of the wrong type or out of range; it names each.
    """

    prompt: str
    a: Media
    b: Media
    choice: Choice
    strength: float | None = None
    margin: float | None = None
    criteria: tuple[str, ...] = ()
    instruction: str | None = None
    rationale: str | None = None
    source: Source | None = None
    first_frame: Media | None = None

    def __post_init__(self) -> None:
        _refuse(_complaints_of_preference(self))

    @property
    def media(self) -> dict[str, Media]:
        """All of its media, by the names of their fields."""
        found: dict[str, Media] = {"a": self.a, "b": self.b}
        return found if self.first_frame is None else {**found, "first_frame": self.first_frame}

    @property
    def signed_strength(self) -> float:
        """In [-1, 1]: the strength (1 if it is not known) of a choice for a, its negative for b, and 0 for a tie."""
        if self.choice == "tie":
            return 0.0
        strength = 1.0 if self.strength is None else self.strength
        return strength if self.choice == "a" else -strength

    def swapped(self) -> Preference:
        """The same verdict with a and b exchanged. The rationale is left out, for it may name them by their place."""
        other: dict[Choice, Choice] = {"a": "b", "b": "a", "tie": "tie"}
        return replace(self, a=self.b, b=self.a, choice=other[self.choice], rationale=None)

    def as_row(self) -> dict[str, Any]:
        """As plain values: media as ``{"bytes", "path"}``, criteria as a list, the source as a dictionary."""
        return _as_row(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Preference:
        """From what :meth:`as_row` gives, or from a row of a file. Fields that records do not have are ignored.

        Raises:
            InvalidRecordError: see the class; or a field whose name is nearly that of one that records have.
        """
        return _from_row(cls, row)


@dataclass(frozen=True)
class Rating:
    """How good one medium is for a prompt, on some scale. :func:`pairs_from_ratings` makes preferences of them.

    Attributes:
        prompt: what it was made for.
        medium: a picture or a video, as in :class:`Preference`.
        rating: the higher the better.
        scale: the lowest and the highest rating that could be given.
        criteria: names of what was rated; empty for an overall rating.
        instruction: name of the instruction to judge by.
        rationale: the reasons that were given.
        source: where it comes from.
        first_frame: the picture that it was to begin with (image-to-video).

    Raises:
        InvalidRecordError: a field is missing, of the wrong type or out of range; it names each.
    """

    prompt: str
    medium: Media
    rating: float
    scale: tuple[float, float] | None = None
    criteria: tuple[str, ...] = ()
    instruction: str | None = None
    rationale: str | None = None
    source: Source | None = None
    first_frame: Media | None = None

    def __post_init__(self) -> None:
        _refuse(_complaints_of_rating(self))

    def as_row(self) -> dict[str, Any]:
        """As plain values, like :meth:`Preference.as_row`."""
        return _as_row(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Rating:
        """From what :meth:`as_row` gives, or from a row of a file, like :meth:`Preference.from_row`."""
        return _from_row(cls, row)


_MEDIA_FIELDS: Final = ("a", "b", "medium", "first_frame")
_LARGEST: Final = 2**53
"""The largest whole number up to which a float holds each exactly."""


def _as_row(record: Preference | Rating) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.name in _MEDIA_FIELDS and value is not None:
            is_path = isinstance(value, str)
            value = {"bytes": None if is_path else value, "path": value if is_path else None}
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Source):
            value = {"dataset": value.dataset, "row": value.row, "license": value.license}
        row[item.name] = value
    return row


def _from_row(kind: type[Record], row: Mapping[str, Any]) -> Record:
    names = [item.name for item in fields(kind)]
    values = {name: _plain(name, row.get(name)) for name in names}
    if values["criteria"] is None:
        values["criteria"] = ()
    misspelt = _misspelt(row, names)
    try:
        record = kind(**values)
    except InvalidRecordError as error:
        raise InvalidRecordError([*misspelt, *error.complaints]) from None
    _refuse(misspelt)
    return record


def _misspelt(row: Mapping[str, Any], names: list[str]) -> list[Complaint]:
    unknown = [str(name) for name in row if name not in names]
    near = {name: difflib.get_close_matches(name, names, 1, cutoff=0.8) for name in unknown}
    return [
        Complaint(name, f"is not a field of a record; did you mean {found[0]!r}?")
        for name, found in near.items()
        if found
    ]


def _plain(name: str, value: Any) -> Any:
    """A field as the record holds it, where it is clear what is meant; the rest is left for the record to judge."""
    if name in _MEDIA_FIELDS and isinstance(value, Mapping):
        content = value.get("bytes")
        return content if content is not None else value.get("path")
    if name in ("criteria", "scale") and isinstance(value, list):
        return tuple(value)
    if name == "source" and isinstance(value, Mapping):
        # A parquet file holds a source of nothing where there was none.
        if all(item is None for item in value.values()):
            return None
        return Source(value.get("dataset"), value.get("row"), value.get("license"))  # type: ignore[arg-type]
    if name in ("strength", "margin", "rating") and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= _LARGEST else value
    return value


def _refuse(complaints: Iterable[Complaint]) -> None:
    if found := tuple(complaints):
        raise InvalidRecordError(found)


def _complaints_of_preference(record: Preference) -> Iterator[Complaint]:
    yield from _about_prompt(record.prompt)
    media = [*_about_medium("a", record.a), *_about_medium("b", record.b)]
    yield from media
    if not media and record.a == record.b:
        yield Complaint("b", "is the very medium that a is; two different ones are needed")
    if record.choice not in CHOICES:
        yield Complaint("choice", f"is {_shown(record.choice)}; expected 'a', 'b' or 'tie'")
    yield from _about_number("strength", record.strength, 1.0, "it is the lead of the winner as a share of all votes")
    yield from _about_number("margin", record.margin, math.inf, "it is how far apart the two were rated")
    if record.choice == "tie" and _is_number(record.strength) and record.strength:
        yield Complaint("strength", f"is {record.strength} for a tie; leave it out, or choose a or b")
    yield from _about_the_rest(record)


def _complaints_of_rating(record: Rating) -> Iterator[Complaint]:
    yield from _about_prompt(record.prompt)
    yield from _about_medium("medium", record.medium)
    if not _is_number(record.rating):
        yield Complaint("rating", f"is {_shown(record.rating)}; expected a number")
    elif record.scale is not None:
        yield from _about_scale(record.scale, record.rating)
    yield from _about_the_rest(record)


def _about_the_rest(record: Preference | Rating) -> Iterator[Complaint]:
    if not isinstance(record.criteria, tuple) or not all(_is_text(item) for item in record.criteria):
        yield Complaint("criteria", f"are {_shown(record.criteria)}; expected a list of names, such as ['alignment']")
    if record.first_frame is not None:
        yield from _about_medium("first_frame", record.first_frame)
    for name in ("instruction", "rationale"):
        value = getattr(record, name)
        if value is not None and not _is_text(value):
            yield Complaint(name, f"is {_shown(value)}; expected a text, or leave it out")
    if record.source is None:
        return
    if not isinstance(record.source, Source) or not _is_text(record.source.dataset):
        yield Complaint("source", "has no name of a data set; expected {'dataset': ..., 'row': ..., 'license': ...}")
    elif not all(value is None or _is_text(value) for value in (record.source.row, record.source.license)):
        yield Complaint("source", "has a row or a license that is no text; expected texts, or leave them out")


def _about_prompt(prompt: Any) -> Iterator[Complaint]:
    if prompt is None:
        yield Complaint("prompt", "is missing; say what the two were made for")
    elif not isinstance(prompt, str):
        yield Complaint("prompt", f"is {_shown(prompt)}; expected a text")
    elif not prompt.strip():
        yield Complaint("prompt", "is empty; say what the two were made for")
    elif not _is_text(prompt):
        yield Complaint("prompt", "holds half of a surrogate pair, which is no text; write it as proper Unicode")


def _about_medium(name: str, medium: Any) -> Iterator[Complaint]:
    if medium is None:
        yield Complaint(name, "is missing; give a path relative to the folder of the file, or bytes in a parquet file")
    elif isinstance(medium, bytes):
        if not medium:
            yield Complaint(name, "is empty; give the bytes of a picture or a video")
    elif not isinstance(medium, str):
        yield Complaint(name, f"is {_shown(medium)}; expected a path, or bytes in a parquet file")
    elif not _is_text(medium) or "\0" in medium:
        yield Complaint(name, f"is {_shown(medium)}, which is no path; give one relative to the folder of the file")
    elif "://" in medium:
        yield Complaint(
            name, f"is the address {_shown(medium)}; nothing is fetched here: download it and give its path"
        )
    elif PurePosixPath(medium).is_absolute() or PureWindowsPath(medium).drive:
        yield Complaint(name, f"is the absolute path {_shown(medium)}; give it relative to the folder of the file")


def _about_number(name: str, value: Any, highest: float, meaning: str) -> Iterator[Complaint]:
    if value is None:
        return
    if not _is_number(value):
        yield Complaint(name, f"is {_shown(value)}; expected a number, or leave it out")
    elif not 0.0 <= value <= highest:
        limits = "0 or more" if math.isinf(highest) else f"between 0 and {highest:g}"
        yield Complaint(name, f"is {value}; expected {limits}: {meaning}")


def _about_scale(scale: Any, rating: float) -> Iterator[Complaint]:
    if not isinstance(scale, tuple) or len(scale) != 2 or not all(map(_is_number, scale)) or scale[0] >= scale[1]:
        yield Complaint("scale", f"is {_shown(scale)}; expected the lowest and the highest rating, such as [1, 5]")
    elif not scale[0] <= rating <= scale[1]:
        yield Complaint("rating", f"is {rating}, which is not on its scale from {scale[0]} to {scale[1]}")


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
