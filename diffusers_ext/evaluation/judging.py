"""Ask a judge about every pair that people have compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Located, Preference
from ..rewards.errors import RewardDanceError
from ..rewards.instructions import Instruction, get_instruction
from ..rewards.judgement import Judgement, sigmoid


@dataclass(frozen=True)
class Judged:
    """A record and what a judge says of it.

    Attributes:
        record: what people said.
        forward: log-odds that a is better, where b is the reference.
        backward: log-odds that b is better, where a is the reference; the negative of `forward` for a judge that looks
            at each alone.
    """

    record: Preference
    forward: float
    backward: float

    @property
    def log_odds(self) -> float:
        """That a is better, both orders asked: half the difference."""
        return 0.5 * (self.forward - self.backward)

    @property
    def reward(self) -> float:
        """P(a is better)."""
        return sigmoid(self.log_odds)

    @property
    def consistent(self) -> bool:
        """Whether both orders name the same winner."""
        return (self.forward > 0) != (self.backward > 0)

    @property
    def right(self) -> bool:
        """Whether the judge names the one that people chose; never so for a tie."""
        return self.record.choice == ("a" if self.log_odds > 0 else "b")


def lacking_first_frame(
    items: Sequence[Located], instruction: str = "overall", own: dict[str, Instruction] | None = None
) -> list[Located]:
    """Records that cannot be judged, since their instruction is about the first frame that they do not name."""
    bys = {item.record.instruction or instruction for item in items}
    needy = {name for name in bys if get_instruction(name, own).task == "i2v"}
    return [
        item for item in items if (item.record.instruction or instruction) in needy and item.record.first_frame is None
    ]


def judge_preferences(
    judge: Any,
    items: Sequence[Located],
    instruction: str = "overall",
    own: dict[str, Instruction] | None = None,
    pointwise: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Judged]:
    """A judge's word on every record, in order.

    Args:
        judge: a :class:`~diffusers_ext.RewardModel`, a remote one, or whatever else has its face.
        items: records with their media; of videos where their instruction is for videos.
        instruction: what records are judged by that name none of their own.
        own: the user's instructions, beside the presets.
        pointwise: score each picture alone, and compare the scores.
        batch_size, progress: handed on.

    Raises:
        RewardDanceError: a medium that cannot be judged, an instruction that asks for first frames that are not there
            (see :func:`lacking_first_frame`), or a judge that takes no videos.
    """
    if lacking := lacking_first_frame(items, instruction, own):
        asked = lacking[0].record.instruction or instruction
        raise RewardDanceError(f"{lacking[0].place}: names no first_frame, which the instruction {asked!r} is about")
    found: dict[int, Judged] = {}
    for name in dict.fromkeys(item.record.instruction or instruction for item in items):
        chosen = [number for number, item in enumerate(items) if (item.record.instruction or instruction) == name]
        part = [items[number] for number in chosen]
        by = get_instruction(name, own)
        forward, backward = _asked(judge, part, by, pointwise, {"batch_size": batch_size, "progress": progress})
        for number, item, one, other in zip(chosen, part, forward, backward, strict=True):
            found[number] = Judged(item.record, one, other)
    return [found[number] for number in range(len(items))]


def _asked(
    judge: Any, items: Sequence[Located], by: Instruction, pointwise: bool, options: dict[str, Any]
) -> tuple[list[float], list[float]]:
    if by.task != "t2i" and not hasattr(judge, "compare_videos"):
        raise RewardDanceError(f"{judge.name} takes no videos, which the instruction {by.name!r} is for")
    compare, score = (judge.compare, judge.score) if by.task == "t2i" else (judge.compare_videos, judge.score_video)
    if by.task == "i2v":
        options = {**options, "first_frame": [item.given() for item in items]}
    first, second = ([item.open(getattr(item.record, side)) for item in items] for side in ("a", "b"))
    prompts = [item.record.prompt for item in items]
    try:
        if pointwise:
            one, other = (_values(score(media, prompts, by, **options)) for media in (first, second))
            margins = [a - b for a, b in zip(one, other, strict=True)]
            return margins, [-value for value in margins]
        forward = compare(first, second, prompts, by, debias=False, **options)
        backward = compare(second, first, prompts, by, debias=False, **options)
    except RewardDanceError as error:
        raise type(error)(f"records judged by {by.name!r}: {error}") from error
    return _values(forward), _values(backward)


def _values(judgements: Sequence[Judgement]) -> list[float]:
    return [item.log_odds for item in judgements]
