"""The baseline that generative judges are held against: a scalar head, trained by Bradley-Terry.

A candidate's reward is a number of its own, P(a is better than b) = sigmoid(r(a) - r(b)). So it can neither look from
one picture to the other nor think before it answers, and its pointwise rewards have no zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .arguments import check_count, one_each
from .errors import ModelError
from .instructions import DEFAULT_INSTRUCTION, Instruction
from .judgement import Judgement
from .model import SCALAR_HEAD, RewardModel

if TYPE_CHECKING:
    from .images import ImageInput


class ScalarHead(nn.Module):
    """From the last hidden state to one number, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Rewards count by their differences alone, so there is no bias; all alike is where to begin.
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., width] to rewards [...]."""
        precision = torch.promote_types(hidden.dtype, torch.float32)
        return hidden.to(self.weight.device, precision) @ self.weight.to(precision)

    def save(self, folder: Path) -> None:
        """Write it beside the model's weights."""
        save_file({"weight": self.weight.detach().cpu().contiguous()}, folder / SCALAR_HEAD)

    @classmethod
    def load(cls, folder: Path) -> ScalarHead:
        """Read it from beside the model's weights.

        Raises:
            ModelError: the file is damaged, or holds something else.
        """
        try:
            weight = load_file(folder / SCALAR_HEAD)["weight"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ModelError(f"{folder / SCALAR_HEAD}: cannot be read as a scalar head ({error})") from error
        head = cls(weight.numel())
        head.weight.data = weight.float().flatten()
        return head


class BradleyTerryModel(RewardModel):
    """A judge with a scalar head, of the same face as any other.

    `score` gives each picture's number as its log-odds; `compare` the difference of two, whose sigmoid is the
    probability that the candidate is better.
    """

    @classmethod
    def with_head_of(cls, folder: Path, judge: RewardModel) -> BradleyTerryModel:
        """The judge, with the scalar head that a folder holds.

        Raises:
            ModelError: the head cannot be read, or was made for another width.
        """
        head = ScalarHead.load(folder)
        width = judge.model.config.get_text_config().hidden_size
        if len(head.weight) != width:
            raise ModelError(f"{folder / SCALAR_HEAD}: has {len(head.weight)} numbers, and the model is {width} wide")
        return cls.of(judge, head.to(judge.device).requires_grad_(False))

    @classmethod
    def of(cls, judge: RewardModel, head: ScalarHead) -> BradleyTerryModel:
        """A judge's model with a scalar head in place of its words; the judge itself stays as it is."""
        found = cls(judge.model, judge.processor, judge.name, judge.config)
        found.backbone.scalar_head = head
        return found

    def log_odds(
        self,
        images: Tensor,
        prompt: str | Sequence[str],
        reference: ImageInput | Sequence[ImageInput] | None = None,
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        checkpointing: bool = True,
    ) -> Tensor:
        """As in :meth:`RewardModel.log_odds`; nothing depends on the order, so there is nothing to debias."""
        mine = super().log_odds(images, prompt, None, instruction, False, checkpointing)
        if reference is None:
            return mine
        if not isinstance(reference, Tensor):
            judged = self.score(reference, prompt if isinstance(prompt, str) else prompt[0], instruction)
            theirs = mine.new_tensor([item.log_odds for item in judged])
        else:
            theirs = super().log_odds(reference, prompt, None, instruction, False, checkpointing)
        check_count(len(theirs), len(mine))
        return mine - theirs

    def _text(self, by: Instruction, prompt: str, pairwise: bool, explain: bool, **shown: Any) -> str:
        if explain:
            raise ModelError(f"{self.name}: a Bradley-Terry model gives numbers and no reasons; ask it without explain")
        return super()._text(by, prompt, pairwise, explain, **shown)

    def _pairs(
        self,
        judged: Sequence[Any],
        against: Sequence[Any],
        firsts: Sequence[Any],
        prompt: str | Sequence[str],
        by: Instruction,
        debias: bool,
        options: Any,
    ) -> list[Judgement]:
        mine = self._alone(judged, firsts, prompt, by, options)
        theirs = self._alone(one_each(against, len(judged)), firsts, prompt, by, options)
        return [
            Judgement(
                (one.log_odds - other.log_odds) * self.config.pointwise_temperature / self.config.temperature,
                by.name,
                by.criteria,
                one.candidate,
                one.candidate if len(against) > 1 else 0,
                None,
                True,
            )
            for one, other in zip(mine, theirs, strict=True)
        ]
