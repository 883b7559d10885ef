"""Rejection sampling of rationales (RewardDance, arXiv 2509.08826): keep those after which the verdict is right.

A judge that can think aloud at all is asked several times about every pair that people have compared. What it wrote
before a verdict that people agree with becomes the record's rationale, and the judge is then trained on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..data import Located, Preference
from ..rewards.instructions import Instruction, get_instruction
from .lessons import asker, opened

if TYPE_CHECKING:
    from ..rewards.model import RewardModel
    from ..rewards.questions import Question


@dataclass(frozen=True)
class Reasoned:
    """A record and the best of the rationales that were written for it.

    Attributes:
        record: with that rationale, or unchanged where none was right.
        right: after how many of the rationales the verdict was right.
        written: how many there were.
    """

    record: Preference
    right: int
    written: int


def sample_rationales(
    judge: RewardModel,
    items: Sequence[Located],
    instruction: str = "overall",
    own: dict[str, Instruction] | None = None,
    samples: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[Reasoned]:
    """Rationales for records with a winner, a is the candidate and b the reference; ties come back as they are.

    Of several that are right the one is kept after which the judge is surest.

    Args:
        judge: what writes them.
        items: records with their media.
        instruction: what records are judged by that name none of their own.
        own: the user's instructions, beside the presets.
        samples: how many to write for each record.
        temperature: of the words; 0 writes the likeliest one alone.
        seed: another one gives other rationales.
        batch_size: questions per forward pass.
    """
    count = samples if temperature > 0 else 1
    for number, item in enumerate(items):
        record = item.record
        if record.choice == "tie":
            yield Reasoned(record, 0, 0)
            continue
        ask = _asking(judge, item, get_instruction(record.instruction or instruction, own))
        # One question is one node of the tree however often it is put, so each sample is asked by itself.
        thoughts = [
            judge.think([ask(None)], temperature, _seed(seed, number, sample), batch_size)[0] for sample in range(count)
        ]
        kept = list(dict.fromkeys(thought for thought in thoughts if thought))
        sign = 1.0 if record.choice == "a" else -1.0
        sure = [sign * value for value in judge.answer([ask(thought) for thought in kept], batch_size)] if kept else []
        after = dict(zip(kept, sure, strict=True))
        right = sum(after.get(thought, -1.0) > 0 for thought in thoughts)
        best = max(kept, key=after.__getitem__, default=None)
        chosen = record if best is None or after[best] <= 0 else replace(record, rationale=best)
        yield Reasoned(chosen, right, count)


def _seed(*path: int) -> int:
    """Of its own for every sample: added up, neighbouring seeds would share nearly all of them."""
    return int(np.random.SeedSequence(path).generate_state(1)[0])


def _asking(judge: RewardModel, item: Located, by: Instruction) -> Callable[[str | None], Question]:
    ask, (a, b) = asker(judge, item, by), opened(item, by)
    return lambda thought: ask(a, item.record.prompt, b, by, explain=True, thought=thought)
