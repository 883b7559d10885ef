"""Prompts to learn from and prompts to be measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from .errors import LoraTrainingError

NANO: Final = "nano"


def training_prompts(source: str, count: int, seed: int) -> list[str]:
    """The lines of a file; or, of the nano world, `count` prompts of all kinds that name no held-out combination.

    Raises:
        LoraTrainingError: the file cannot be read, or holds no prompt.
    """
    if source != NANO:
        return _lines(source, "prompts")
    from ..nano.scenes import sample_prompt

    rng = np.random.default_rng((seed, 5))
    return [sample_prompt(rng).text for _ in range(count)]


def evaluation_prompts(source: str, count: int) -> list[str]:
    """The first `count` lines of a file; or prompts of the nano world, every fourth of a held-out combination.

    Raises:
        LoraTrainingError: the file cannot be read, or holds no prompt.
    """
    if source != NANO:
        return _lines(source, "evaluation_prompts")[:count]
    from ..nano.scenes import PROMPT_KINDS, sample_prompt

    rng = np.random.default_rng(2509)
    return [
        (
            sample_prompt(rng, held_out=True)
            if number % 4 == 3
            else sample_prompt(rng, PROMPT_KINDS[(number - number // 4) % len(PROMPT_KINDS)])
        ).text
        for number in range(count)
    ]


def _lines(source: str, key: str) -> list[str]:
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LoraTrainingError(f"{key}: {source} cannot be read ({error})") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise LoraTrainingError(f"{key}: {source} holds none; write one on every line")
    return found
