"""The baseline that is not asked anything: how well a picture's and a prompt's embeddings agree (CLIPScore)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AutoModel, AutoProcessor

from ..rewards.arguments import check_batch_size, judging, one_each, prompts_for
from ..rewards.errors import ModelError
from ..rewards.images import as_images
from ..rewards.instructions import DEFAULT_INSTRUCTION, Instruction, get_instruction
from ..rewards.judgement import Judgement

if TYPE_CHECKING:
    from PIL import Image

    from ..rewards.images import ImageInput

BATCH_SIZE: Final = 32


class ClipJudge:
    """A CLIP (Radford et al. 2021, arXiv 2103.00020) with the face of a reward model; PickScore is one too.

    The log-odds of a comparison are the difference of the two logits that CLIP gives picture and prompt, the cosine of
    their embeddings times its learned scale; alone, the logit itself. Instructions change nothing.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, device: str | None = None) -> ClipJudge:
        """Load a CLIP that `save_pretrained` wrote, or from the hub; safetensors weights alone are read.

        Raises:
            ModelError: it cannot be loaded.
        """
        try:
            model = AutoModel.from_pretrained(path_or_id, use_safetensors=True)
            processor = AutoProcessor.from_pretrained(path_or_id)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(f"{path_or_id}: could not be loaded as a CLIP ({error})") from error
        return cls(model.to(device or "cpu"), processor, Path(path_or_id).name)

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """As :meth:`RewardModel.score <diffusers_ext.rewards.model.RewardModel.score>`, without an explanation."""
        if explain:
            raise ModelError(f"{self.name}: a CLIP gives numbers and no reasons; ask it without explain")
        check_batch_size(batch_size)
        by, pictures = get_instruction(instruction), as_images(images)
        asked, values = prompts_for(prompt, len(pictures)), []
        step = batch_size or BATCH_SIZE
        with judging(len(pictures), progress) as advance:
            for first in range(0, len(pictures), step):
                values += self._logits(pictures[first : first + step], asked[first : first + step])
                advance(len(pictures[first : first + step]))
        return [Judgement(value, by.name, by.criteria, index) for index, value in enumerate(values)]

    def compare(
        self,
        candidates: ImageInput | Sequence[ImageInput],
        reference: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """As :meth:`RewardModel.compare <diffusers_ext.rewards.model.RewardModel.compare>`."""
        options: dict[str, Any] = {"explain": explain, "batch_size": batch_size, "progress": progress}
        mine = self.score(candidates, prompt, instruction, **options)
        against = as_images(reference)
        theirs = one_each(self.score(one_each(against, len(mine)), prompt, instruction, **options), len(mine))
        return [
            Judgement(a.log_odds - b.log_odds, a.instruction, a.criteria, index, index if len(against) > 1 else 0)
            for index, (a, b) in enumerate(zip(mine, theirs, strict=True))
        ]

    def _logits(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        inputs = self.processor(
            text=list(prompts), images=list(pictures), return_tensors="pt", padding=True, truncation=True
        )
        with torch.inference_mode():
            made = self.model(**inputs.to(self.model.device))
        return [float(value) for value in made.logits_per_image.diagonal()]
