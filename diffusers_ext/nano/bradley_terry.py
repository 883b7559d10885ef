"""The rival of the generative judges: the same model, lessons and pictures, but rewards are numbers read off a scalar
head, trained by Bradley-Terry instead of by yes and no.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration

from ..rewards.bradley_terry import ScalarHead
from .detection import targets_of
from .packing import Row, hidden_states, pack
from .preferences import GROUP, Group, good, marks, preferred
from .reward_model import TOKENS_PER_IMAGE
from .train_reward import (
    Compared,
    Lesson,
    RewardLearner,
    RewardLessons,
    RewardRecipe,
    Writer,
    draw_instruction,
    pixels_of,
    speaking_rows,
    train_judge,
)

QUESTIONS = 3
"""Questions about all six pictures of a group: as many pictures are judged as generative judges judge."""


class BradleyTerryLessons(RewardLessons):
    """The lessons of a recipe with rewards in place of verdicts and rationales."""

    def __call__(self, step: int) -> Lesson:
        if step < self.recipe.answers:
            return super().__call__(step)
        rng = np.random.default_rng((self.recipe.seed, step))
        groups = self.groups(rng, step)
        rows, pairs = compared_rows(self.writer, rng, groups)
        asked = pack(rows, self.writer.frame, TOKENS_PER_IMAGE, self.writer.tokenizer.pad_token_id)
        told = self.writer.pack(speaking_rows(self.writer, rng, groups, 3, 2, self.recipe), self.recipe.parts)
        return Lesson(pixels_of(groups), targets_of(groups), told, compared=Compared(asked, pairs))


def compared_rows(writer: Writer, rng: np.random.Generator, groups: Sequence[Group]) -> tuple[list[Row], Tensor]:
    """Questions without a reference about all pictures, and which of those of one question are better than which."""
    rows: list[Row] = []
    pairs: list[tuple[int, int]] = []
    for number, group in enumerate(groups):
        marked = [marks(picture, group.spec) for picture in group.pictures]
        for _ in range(QUESTIONS):
            instruction = draw_instruction(rng, group)
            first = GROUP * len(rows)
            verdicts = [(GROUP * number + i, good(instruction, marked[i])) for i in range(GROUP)]
            rows.append(writer.judgement_row(instruction, group.spec, None, verdicts))
            pairs += [
                (first + i, first + j)
                for i in range(GROUP)
                for j in range(GROUP)
                if preferred(instruction, marked[i], marked[j])
            ]
    return rows, torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


class BradleyTerryLearner(RewardLearner):
    """Learns to see, to speak and to give rewards."""

    def __init__(self, model: InternVLForConditionalGeneration, writer: Writer, recipe: RewardRecipe) -> None:
        super().__init__(model, writer, recipe)
        self.head = ScalarHead(model.config.text_config.hidden_size)

    def study(self, lesson: Lesson, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost of speaking, and of rewards that put pictures in the wrong order."""
        cost, figures = super().study(lesson, features)
        if lesson.compared is None:
            return cost, figures
        asked, pairs = lesson.compared.asked, lesson.compared.pairs
        hidden = hidden_states(self.model, asked, features).flatten(0, 1)
        better, worse = self.head(hidden[asked.places])[pairs].unbind(1)
        margins = better - worse
        return cost - F.logsigmoid(margins).mean(), figures | {"ordered": (margins > 0).float().mean()}

    def save(self, out: Path) -> None:
        """Write the model and its head."""
        super().save(out)
        self.head.save(out)


def train_bradley_terry(out: Path, recipe: RewardRecipe = RewardRecipe()) -> InternVLForConditionalGeneration:
    """Train (or go on training: the state is kept in `out/training.pt`) and save to `out`, with its scalar head."""
    title = f"{recipe.architecture}, Bradley-Terry"
    return train_judge(out, recipe, BradleyTerryLessons, BradleyTerryLearner, title)
