"""Prompts to learn from and prompts to be measured on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from ..rewards.errors import ImageError
from ..rewards.images import load_image
from .errors import LoraTrainingError

NANO: Final = "nano"


@dataclass(frozen=True)
class Prompt:
    """What is to be painted.

    Attributes:
        text: in words.
        first_frame: file of the picture that a video is to begin with (image-to-video).
    """

    text: str
    first_frame: Path | None = None

    @property
    def unsaid(self) -> Prompt:
        """The same without the words: what guidance leads away from."""
        return Prompt("", self.first_frame)


def texts(prompts: Sequence[Prompt]) -> list[str]:
    """What they say."""
    return [prompt.text for prompt in prompts]


def first_frames(prompts: Sequence[Prompt]) -> list[Image.Image] | None:
    """The pictures that they begin with, or None if they do not."""
    files = [prompt.first_frame for prompt in prompts if prompt.first_frame is not None]
    pictures = {file: load_image(file) for file in dict.fromkeys(files)}
    return [pictures[file] for file in files] or None


def training_prompts(source: str, count: int, seed: int) -> list[Prompt]:
    """Those of a file; or, of the nano world, `count` prompts of all kinds that name no held-out combination.

    Raises:
        LoraTrainingError: as of :func:`read_prompts`.
    """
    if source != NANO:
        return read_prompts(source, "prompts")
    from ..nano.scenes import sample_prompt

    rng = np.random.default_rng((seed, 5))
    return [Prompt(sample_prompt(rng).text) for _ in range(count)]


def evaluation_prompts(source: str, count: int) -> list[Prompt]:
    """The first `count` of a file; or prompts of the nano world, every fourth of a held-out combination.

    Raises:
        LoraTrainingError: as of :func:`read_prompts`.
    """
    if source != NANO:
        return read_prompts(source, "evaluation_prompts")[:count]
    from ..nano.scenes import PROMPT_KINDS, sample_prompt

    rng = np.random.default_rng(2509)
    specs = [
        sample_prompt(rng, held_out=True)
        if number % 4 == 3
        else sample_prompt(rng, PROMPT_KINDS[(number - number // 4) % len(PROMPT_KINDS)])
        for number in range(count)
    ]
    return [Prompt(spec.text) for spec in specs]


def read_prompts(source: str | Path, key: str) -> list[Prompt]:
    """Those of a file: one on every line, or, if its name ends in ``.jsonl``, records.

    A record has a ``prompt`` and perhaps a ``first_frame``, a path that is relative to the file.

    Args:
        source: the file.
        key: the configuration's, for messages.

    Raises:
        LoraTrainingError: the file or a picture that it names cannot be read, or it holds no prompt.
    """
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoraTrainingError(f"{key}: {source} cannot be read ({error})") from error
    written = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not written:
        raise LoraTrainingError(f"{key}: {source} holds none; write one on every line")
    if Path(source).suffix != ".jsonl":
        return [Prompt(line) for _, line in written]
    return [_record(line, Path(source).parent, f"{key}: line {number} of {source}") for number, line in written]


def _record(line: str, folder: Path, place: str) -> Prompt:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise LoraTrainingError(f"{place} is no JSON ({error})") from error
    text, first = (record.get(name) for name in ("prompt", "first_frame")) if isinstance(record, dict) else (None, None)
    if not isinstance(text, str) or not text.strip() or not isinstance(first, str | None):
        raise LoraTrainingError(
            f'{place}: expected a record like {{"prompt": "a fox runs", "first_frame": "fox.png"}}, the latter if '
            f"there is one, not {line[:80]}"
        )
    if first is None:
        return Prompt(text)
    try:
        load_image(folder / first)
    except ImageError as error:
        raise LoraTrainingError(f"{place}: {error}") from error
    return Prompt(text, folder / first)
