"""One judgement as it travels to a judge on another machine, and back."""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from PIL import Image, UnidentifiedImageError

from ..rewards.errors import ImageError, InstructionError
from ..rewards.images import as_png, load_image
from ..rewards.instructions import Example, Instruction, Task
from ..rewards.judgement import Judgement

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS: Final = ("PNG", "JPEG")


@dataclass(frozen=True)
class Shown:
    """An example of an instruction, its pictures as bytes of PNG or JPEG files."""

    prompt: str
    candidate: bytes
    verdict: bool
    reference: bytes | None = None


@dataclass(frozen=True)
class Recipe:
    """An instruction that can travel: whatever files it needs are in it."""

    name: str
    text: str
    criteria: tuple[str, ...]
    task: Task = "t2i"
    examples: tuple[Shown, ...] = ()

    @classmethod
    def of(cls, by: Instruction) -> Recipe:
        """Take an instruction's example pictures along.

        Raises:
            InstructionError: one of them cannot be read.
        """
        try:
            examples = tuple(
                Shown(
                    item.prompt,
                    as_png(load_image(item.candidate)),
                    item.verdict,
                    None if item.reference is None else as_png(load_image(item.reference)),
                )
                for item in by.examples
            )
        except ImageError as error:
            raise InstructionError(f"instruction {by.name!r}: {error}") from error
        return cls(by.name, by.text, by.criteria, by.task, examples)

    @contextmanager
    def unpacked(self) -> Iterator[Instruction]:
        """The instruction, its example pictures in files that are there within the `with` block."""
        with TemporaryDirectory(prefix="rewarddance-") as folder:

            def file(content: bytes) -> Path:
                path = Path(folder) / hashlib.blake2b(content, digest_size=16).hexdigest()
                path.write_bytes(content)
                return path

            examples = tuple(
                Example(
                    item.prompt,
                    file(item.candidate),
                    item.verdict,
                    None if item.reference is None else file(item.reference),
                )
                for item in self.examples
            )
            yield Instruction(self.name, self.text, self.criteria, self.task, examples)


@dataclass(frozen=True)
class Film:
    """A video as it travels: the frames that are to be shown, bytes of PNG or JPEG files, and how many a second."""

    frames: tuple[bytes, ...]
    rate: float


@dataclass(frozen=True)
class Way:
    """What questions must have in common to be put to the model in one call."""

    recipe: Recipe
    pairwise: bool
    explain: bool = False
    debias: bool = False
    moving: bool = False
    """Whether they are about videos."""
    begun: bool = False
    """Whether these were to begin with a given picture."""


@dataclass(frozen=True)
class Asked:
    """A question; pictures are bytes of PNG or JPEG files.

    Attributes:
        way: how it is to be put.
        prompt: what the picture or video was to show.
        candidate: the picture, or the video.
        reference: what to hold it against, or None.
        reference_index: which of the references given that is.
        first_frame: what the video was to begin with, or None.
    """

    way: Way
    prompt: str
    candidate: bytes | Film
    reference: bytes | Film | None = None
    reference_index: int | None = None
    first_frame: bytes | None = None


@dataclass(frozen=True)
class Answer:
    """A judgement, or the name of an error that the user can mend and its message."""

    judgement: Judgement | None
    kind: str = ""
    problem: str = ""


def opened(content: bytes) -> Image.Image:
    """A picture in a PNG or JPEG file; only its beginning is read.

    Raises:
        ImageError: it is neither.
    """
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"not a picture in PNG or JPEG format ({len(content)} bytes)") from error
