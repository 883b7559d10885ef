"""Pictures that the nano generator made, judged by the oracle: what the reward model will meet in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .evaluation import sample_sheet
from .oracle import judge
from .preferences import GROUP, Group, Picture
from .scenes import PROMPT_KINDS, PromptKind, parse_prompt, sample_prompt


@dataclass(frozen=True)
class Pool:
    """Groups of generated pictures.

    Attributes:
        prompts: the text of each group's prompt.
        pixels: uint8 [groups, 6, 64, 64, 3].
    """

    prompts: tuple[str, ...]
    pixels: np.ndarray
    _groups: dict[int, Group] = field(default_factory=dict, repr=False, compare=False)
    _kinds: dict[PromptKind, list[int]] = field(default_factory=dict, repr=False, compare=False)

    def save(self, path: Path) -> None:
        """Write an .npz of plain arrays."""
        with path.open("wb") as file:  # given a path, numpy would add .npz to it
            np.savez_compressed(file, prompts=np.array(self.prompts), pixels=self.pixels)

    @classmethod
    def load(cls, path: Path) -> Pool:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(tuple(str(text) for text in arrays["prompts"]), arrays["pixels"])

    def draw(self, rng: np.random.Generator, kind: PromptKind) -> Group:
        """A group whose prompt is of a kind; of any kind where there is none."""
        if not self._kinds:
            self._kinds.update({name: [] for name in PROMPT_KINDS})
            for index, text in enumerate(self.prompts):
                self._kinds[parse_prompt(text).kind].append(index)
        places = self._kinds[kind] or range(len(self.prompts))
        return self.group(places[int(rng.integers(len(places)))])

    def group(self, index: int) -> Group:
        """A group with what the oracle sees in place of a truth that nobody knows, to be judged by alignment alone."""
        if index not in self._groups:
            spec = parse_prompt(self.prompts[index])
            pictures = tuple(Picture(pixels, judge(pixels, spec).objects) for pixels in self.pixels[index])
            self._groups[index] = Group(spec, pictures, generated=True)
        return self._groups[index]


def draw_pool(pipeline: Any, groups: int, seed: int = 0, progress: bool = False, **options: Any) -> Pool:
    """Have the generator paint `groups` in-domain prompts six times each."""
    rng = np.random.default_rng((seed, 77))
    prompts = [sample_prompt(rng) for _ in range(groups)]
    sheets = sample_sheet(pipeline, GROUP, prompts, 1_000_000 * (seed + 1), progress, **options)
    pixels = np.stack([np.stack([np.asarray(image) for image in images]) for images in sheets])
    return Pool(tuple(spec.text for spec in prompts), pixels)
