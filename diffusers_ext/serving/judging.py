"""Questions from elsewhere, put to a model that is loaded here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ranking import Judge
from ..rewards.errors import ModelError, RewardDanceError
from ..rewards.images import load_image
from ..rewards.instructions import Instruction
from ..rewards.videos import Clip
from .questions import Answer, Asked, Film, Way, opened

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
    shown: dict[int, _Shown] = {}
    for index, item in enumerate(asked):
        try:
            shown[index] = _Shown(item.prompt, *map(_loaded, (item.candidate, item.reference, item.first_frame)))
            ways.setdefault(item.way, []).append(index)
        except RewardDanceError as error:
            answers[index] = _problem(error)
    for way, indices in ways.items():
        with way.recipe.unpacked() as by:
            found = _judged(judge, way, by, [shown[index] for index in indices])
            answers |= zip(indices, found, strict=True)
    return [answers[index] for index in range(len(asked))]


@dataclass(frozen=True)
class _Shown:
    """A question's pictures and videos, opened."""

    prompt: str
    candidate: Any
    reference: Any
    first_frame: Any


def _loaded(content: bytes | Film | None) -> Image.Image | Clip | None:
    if isinstance(content, Film):
        return Clip(tuple(load_image(opened(frame)) for frame in content.frames), content.rate)
    return None if content is None else load_image(opened(content))


def _judged(judge: Any, way: Way, by: Instruction, shown: Sequence[_Shown]) -> list[Answer]:
    options: dict[str, Any] = {"instruction": by, "explain": way.explain}
    candidates, prompts = [item.candidate for item in shown], [item.prompt for item in shown]
    score, compare = judge.score, judge.compare
    if way.moving:
        score, compare = judge.score_video, judge.compare_videos
        clips = [clip for item in shown for clip in (item.candidate, item.reference) if clip is not None]
        options["frames"] = max(len(clip.frames) for clip in clips)  # all: the client has chosen
        options["first_frame"] = [item.first_frame for item in shown] if way.begun else None
    try:
        if way.pairwise:
            found = compare(candidates, [item.reference for item in shown], prompts, debias=way.debias, **options)
        else:
            found = score(candidates, prompts, **options)
        return [Answer(judgement) for judgement in found]
    except RewardDanceError as error:
        if len(shown) == 1:
            return [_problem(error)]
        return [found for item in shown for found in _judged(judge, way, by, [item])]


def _problem(error: RewardDanceError) -> Answer:
    return Answer(None, type(error).__name__, str(error))
