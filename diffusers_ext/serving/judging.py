"""Questions from elsewhere, put to a model that is loaded here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..ranking import Judge
from ..rewards.errors import ModelError, RewardDanceError
from ..rewards.images import load_image
from ..rewards.instructions import Instruction
from .questions import Answer, Asked, Way, opened

if TYPE_CHECKING:
    from PIL import Image

    from ..rewards.model import RewardModel


def load_judge(model: str | None, quantization: str | None, device: str | None) -> RewardModel:
    """Load a reward model in a worker process, quietly; None is the nano model."""
    import transformers

    from ..rewards.model import RewardModel

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if model is None:
        return RewardModel.default(device)
    return RewardModel.from_pretrained(model, quantization, device)  # type: ignore[arg-type]  # checked there


def told_by_worker(error: Exception) -> ModelError:
    """What went wrong in a worker process, without the traceback that Ray puts around it."""
    found = re.findall(r"ModelError: (.+)", str(error))
    return ModelError(found[-1] if found else f"a worker failed: {str(error).strip().splitlines()[-1]}")


def anywhere(model: str | None) -> str | None:
    """A model's folder by its whole path, for processes that work in other folders; an id as it is."""
    return str(Path(model).resolve()) if model is not None and Path(model).exists() else model


def answer(judge: Judge, asked: Sequence[Asked]) -> list[Answer]:
    """Put questions to a judge, those of one way together; one that cannot be answered does not stop the others."""
    answers: dict[int, Answer] = {}
    ways: dict[Way, list[int]] = {}
    pictures: dict[int, list[Image.Image]] = {}
    for index, item in enumerate(asked):
        contents = [content for content in (item.candidate, item.reference) if content is not None]
        try:
            pictures[index] = [load_image(opened(content)) for content in contents]
            ways.setdefault(item.way, []).append(index)
        except RewardDanceError as error:
            answers[index] = _problem(error)
    for way, indices in ways.items():
        with way.recipe.unpacked() as by:
            found = _judged(judge, way, by, [asked[index].prompt for index in indices], [pictures[i] for i in indices])
            answers |= zip(indices, found, strict=True)
    return [answers[index] for index in range(len(asked))]


def _judged(
    judge: Judge, way: Way, by: Instruction, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]
) -> list[Answer]:
    try:
        if way.pairwise:
            found = judge.compare(
                [first for first, _ in pictures],
                [second for _, second in pictures],
                prompts,
                instruction=by,
                debias=way.debias,
                explain=way.explain,
            )
        else:
            found = judge.score([first for (first,) in pictures], prompts, instruction=by, explain=way.explain)
        return [Answer(judgement) for judgement in found]
    except RewardDanceError as error:
        if len(prompts) == 1:
            return [_problem(error)]
        alone = zip(prompts, pictures, strict=True)
        return [found for prompt, own in alone for found in _judged(judge, way, by, [prompt], [own])]


def _problem(error: RewardDanceError) -> Answer:
    return Answer(None, type(error).__name__, str(error))
