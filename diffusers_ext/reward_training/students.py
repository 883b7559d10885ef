"""What is trained, as modules whose forward pass is the loss, so that any engine can wrap them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..rewards.backbones.base import Backbone
from ..rewards.bradley_terry import ScalarHead
from ..rewards.differentiable import saving_memory
from ..rewards.engine import last, lay_out, look
from .lessons import Lesson


class Student(nn.Module):
    """A judge that learns.

    Its forward pass takes lessons, and gives the sum of their weighted losses and the log-odds of yes for each, with no
    gradient [lessons].
    """

    def __init__(self, backbone: Backbone, checkpointing: bool) -> None:
        super().__init__()
        self.model = backbone.model
        # By this FSDP knows what to shard together; it looks for it here, as on any model of transformers.
        self._no_split_modules = backbone.model._no_split_modules
        self.backbone = backbone
        self.checkpointing = checkpointing

    def read(self, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [rows, length, width] of questions, those of the last tokens [rows, width], and lengths."""
        pictures = dict.fromkeys(picture for lesson in lessons for picture in lesson.question.pictures)
        seen = look(self.backbone, list(pictures))
        rows = [
            list(zip((None, *(seen[picture] for picture in question.pictures)), question.texts, strict=True))
            for question in (lesson.question for lesson in lessons)
        ]
        laid = lay_out(self.backbone, rows, [0] * len(rows))
        hidden = self.backbone.read(laid.embeddings, laid.positions, laid.mask, None, laid.shown)
        return hidden, last(hidden, laid.mask), laid.mask.sum(1)


class GenerativeStudent(Student):
    """Plain next-token cross-entropy: on the yes or no (all its spellings) after a question, and on rationales."""

    def __init__(self, backbone: Backbone, checkpointing: bool, rationales: float) -> None:
        super().__init__(backbone, checkpointing)
        self.rationales = rationales

    def forward(self, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
        with saving_memory(self.model) if self.checkpointing else nullcontext():
            hidden, ends, lengths = self.read(lessons)
        head, answers = self.model.get_output_embeddings(), self.backbone.answers
        words = F.log_softmax(_precise(head(ends)), dim=-1)
        of_yes, of_no = (words[:, list(group)].logsumexp(1) for group in (answers.yes, answers.no))
        yes = words.new_tensor([lesson.yes for lesson in lessons])
        costs = -(yes * of_yes + (1 - yes) * of_no)
        told = [self._told(hidden[row], int(lengths[row]), lesson) for row, lesson in enumerate(lessons)]
        weights = words.new_tensor([lesson.weight for lesson in lessons])
        return (weights * (costs + self.rationales * torch.stack(told))).sum(), (of_yes - of_no).detach()

    def _told(self, hidden: Tensor, length: int, lesson: Lesson) -> Tensor:
        """Mean cross-entropy of the tokens that the judge is to write itself."""
        if not lesson.taught:
            return _precise(hidden.new_zeros(()))
        logits = _precise(self.model.get_output_embeddings()(hidden[length - lesson.taught - 1 : length - 1]))
        return F.cross_entropy(logits, torch.tensor(lesson.question.texts[-1][-lesson.taught :], device=logits.device))


class BradleyTerryStudent(Student):
    """-log sigmoid(r(better) - r(worse)) of every two lessons in a row, which are about the two of a record."""

    def __init__(self, backbone: Backbone, checkpointing: bool) -> None:
        super().__init__(backbone, checkpointing)
        self.head = ScalarHead(backbone.model.config.get_text_config().hidden_size)

    def forward(self, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
        with saving_memory(self.model) if self.checkpointing else nullcontext():
            _, ends, _ = self.read(lessons)
        rewards = self.head(ends)
        first, second = rewards.reshape(-1, 2).unbind(1)
        weights = first.new_tensor([lesson.weight for lesson in lessons[::2]])
        yes = first.new_tensor([lesson.yes for lesson in lessons[::2]])
        costs = F.binary_cross_entropy_with_logits(first - second, yes, reduction="none")
        # Both lessons of a record carry its weight.
        return 2 * (weights * costs).sum(), rewards.detach()


def _precise(values: Tensor) -> Tensor:
    """In float32, or float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
