"""Preference records as what a judge is taught: a question, what it should write, and yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..data import Located, locate
from ..rewards.images import as_images
from ..rewards.instructions import Instruction
from ..rewards.questions import Question
from ..rewards.videos import as_clips
from .config import RewardTraining, TrainingError

if TYPE_CHECKING:
    from ..rewards.model import RewardModel

NAMED: Final = 5
"""How many of several problems a message names."""


@dataclass(frozen=True)
class Lesson:
    """A question and its answer.

    Attributes:
        question: up to where the verdict stands.
        taught: how many tokens at its end are the judge's own, a rationale that it is to write.
        yes: probability of yes that it is taught: 1, 0, or one half for a tie.
        weight: in the loss.
    """

    question: Question
    taught: int
    yes: float
    weight: float


def read_records(files: Sequence[str], ties: bool) -> list[Located]:
    """All records to learn from or to measure on.

    Raises:
        TrainingError: records that are damaged or whose media are missing (the first are named), or none that says
            which of two is better.
    """
    found, problems = locate(files)
    if problems:
        named = "\n".join(f"  {problem}" for problem in problems[:NAMED])
        raise TrainingError(
            f"{', '.join(files)}: some records cannot be used; mend them or take them out (`rewarddance data check` "
            f"names them all). The first of {len(problems)} problems:\n{named}"
        )
    if not any(item.record.choice != "tie" for item in found) and not (found and ties):
        raise TrainingError(
            f"{', '.join(files)}: none of {len(found)} records says which of two is better, so there is nothing to "
            "learn (ties alone need `ties` above 0)"
        )
    return [item for item in found if ties or item.record.choice != "tie"]


def lessons_of(
    judge: RewardModel, item: Located, by: Instruction, config: RewardTraining, rng: np.random.Generator
) -> list[Lesson]:
    """What is taught from one record: it is seen in both orders, or each of its media alone."""
    record = item.record
    ask = asker(judge, item, by)
    tie = record.choice == "tie"
    weight = config.ties if tie else (1.0 if record.strength is None else max(record.strength, 0.05))
    media = dict(zip("ab", opened(item, by), strict=True))
    pairwise = config.questions == "pairwise" or (config.questions == "mixed" and rng.random() < 0.5)
    orders = (("a", "b"), ("b", "a")) if pairwise else (("a", None), ("b", None))
    lessons: list[Lesson] = []
    for candidate, reference in orders:
        shown: dict[str, Any] = {"candidate": media[candidate], "reference": media[reference] if reference else None}
        yes = 0.5 if tie else float(record.choice == candidate)
        lessons.append(Lesson(ask(prompt=record.prompt, instruction=by, **shown), 0, yes, weight))
    if record.rationale and config.rationales > 0 and config.objective == "generative" and pairwise and not tie:
        # A rationale speaks of the first as the candidate and of the second as the reference; swapped, it would lie.
        shown = {"candidate": media["a"], "reference": media["b"], "prompt": record.prompt, "instruction": by}
        before = ask(explain=True, **shown)
        after = ask(explain=True, thought=record.rationale, **shown)
        lessons.append(Lesson(after, _grown(before, after), float(record.choice == "a"), weight))
    return lessons


def asker(judge: RewardModel, item: Located, by: Instruction) -> Callable[..., Question]:
    """How a question of an instruction's kind is put about a record: about pictures, videos, or what began with one."""
    if by.task == "t2i":
        return judge.question
    return partial(judge.video_question, first_frame=item.given()) if by.task == "i2v" else judge.video_question


def opened(item: Located, by: Instruction) -> tuple[Any, Any]:
    """Both media of a record, read once for however many questions."""
    read: Callable[[Any], list[Any]] = as_images if by.task == "t2i" else as_clips
    (a,), (b,) = (read(item.open(medium)) for medium in (item.record.a, item.record.b))
    return a, b


def _grown(before: Question, after: Question) -> int:
    """How many tokens were added at the end; a tokenizer may have joined the last of the old with the first new."""
    pairs = zip(before.texts[-1], after.texts[-1], strict=False)
    return len(after.texts[-1]) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
