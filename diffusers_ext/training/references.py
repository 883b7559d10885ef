"""Pictures to compare with: the best of N of a prompt, kept as files until they are stale."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..rewards.images import as_images

Paint = Callable[[list[str], int, bool], Tensor]
"""Prompts, an iteration (for the seeds), and whether by the base: pictures [B, 3, H, W] in [0, 1]."""
Choose = Callable[[Tensor, list[str]], Tensor]
"""Pictures and their prompts to what the best of them has most of, [B]."""


class ReferenceStore:
    """References of one judge.

    A file's name says in which iteration it was made, so a run that goes on from an earlier state can tell which are
    from a future that it has not had.
    """

    def __init__(self, folder: Path, base: bool, candidates: int, refresh: int) -> None:
        self._folder, self._base, self._candidates, self._refresh = folder, base, candidates, refresh
        folder.mkdir(parents=True, exist_ok=True)

    def forget_after(self, iteration: int) -> None:
        """Delete what was made in this iteration or later."""
        for file in self._folder.glob("*.png"):
            if not self._base and int(file.stem.split("-")[0]) >= iteration:
                file.unlink(missing_ok=True)  # all processes do this

    def lacking(self, prompts: Sequence[str], iteration: int) -> list[str]:
        """Those of the prompts, each once, whose references are missing or stale."""
        return [prompt for prompt in dict.fromkeys(prompts) if self._fresh(prompt, iteration) is None]

    def make(self, prompts: Sequence[str], iteration: int, paint: Paint, choose: Choose) -> None:
        """Make references of the prompts."""
        repeated = [prompt for prompt in prompts for _ in range(self._candidates)]
        images = paint(repeated, iteration, self._base)
        values = choose(images, repeated).reshape(len(prompts), self._candidates)
        for index, prompt in enumerate(prompts):
            best = images[index * self._candidates + int(values[index].argmax())]
            file = self._folder / f"{0 if self._base else iteration:07d}-{_key(prompt)}.png"
            partial = file.with_suffix(f".{os.getpid()}.partial")
            as_images(best.clamp(0, 1))[0].save(partial, format="PNG")
            partial.replace(file)

    def get(self, prompts: Sequence[str], iteration: int) -> list[Image.Image]:
        """One reference per prompt; they have been made."""
        found: dict[str, Image.Image] = {}
        for prompt in dict.fromkeys(prompts):
            kept = self._fresh(prompt, iteration)
            assert kept is not None
            with Image.open(kept) as picture:
                found[prompt] = picture.convert("RGB")
        return [found[prompt] for prompt in prompts]

    def _fresh(self, prompt: str, iteration: int) -> Path | None:
        files = sorted(self._folder.glob(f"*-{_key(prompt)}.png"))
        if not files:
            return None
        made = int(files[-1].stem.split("-")[0])
        return files[-1] if self._base or iteration - made < self._refresh else None


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:24]
