"""What the tab Compare computes: two pictures, several judges, several criteria, and where the judges disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from diffusers_ext.rewards.errors import InstructionError, ModelError, PromptTextError, RewardDanceError
from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION, PRESETS, Instruction, get_instruction
from diffusers_ext.rewards.judgement import Judgement

if TYPE_CHECKING:
    from PIL import Image

    from diffusers_ext.ranking import Judge

CRITERIA: Final = tuple(
    sorted((name for name, item in PRESETS.items() if item.task == "t2i"), key=lambda name: name != DEFAULT_INSTRUCTION)
)
"""The presets for pictures, the overall one first."""
_MOST_OWN: Final = 8
_LONGEST: Final = 1000


@dataclass(frozen=True)
class Answer:
    """One judge's verdict on A against B by one instruction.

    Attributes:
        judge: the judge's name.
        criterion: the instruction's name.
        forward: asked with A as the candidate.
        backward: asked with B as the candidate.
    """

    judge: str
    criterion: str
    forward: Judgement
    backward: Judgement

    @property
    def debiased(self) -> Judgement:
        """Both orders in one, as `RewardModel.compare` gives it; its reward is the probability that A is better."""
        return self.forward.swapped(self.backward)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; every probability is that of A."""
        return {
            "judge": self.judge,
            "criterion": self.criterion,
            "probability_of_a": self.debiased.reward,
            "log_odds": self.debiased.log_odds,
            "asked_about_a": self.forward.reward,
            "asked_about_b": 1.0 - self.backward.reward,
            "better": "a" if self.debiased.verdict else "b",
        }


@dataclass(frozen=True)
class Comparison:
    """What is known so far.

    Attributes:
        prompt: what both were to show.
        answers: direct verdicts, judge by judge.
        reasoned: verdicts after a chain of thought; the thoughts are the `explanation` of either order.
        failures: of each judge that could not answer, why.
        notes: what else is to be said.
    """

    prompt: str
    answers: tuple[Answer, ...] = ()
    reasoned: tuple[Answer, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def criteria(self) -> list[str]:
        return list(dict.fromkeys(answer.criterion for answer in self.answers))

    @property
    def judges(self) -> list[str]:
        return list(dict.fromkeys(answer.judge for answer in self.answers))

    def by(self, criterion: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.criterion == criterion]

    def disputed(self, criterion: str) -> bool:
        """Whether the judges prefer different pictures by this criterion."""
        return len({answer.debiased.verdict for answer in self.by(criterion)}) > 1

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        thoughts = [
            {**item.as_dict(), "about_a": item.forward.explanation, "about_b": item.backward.explanation}
            for item in self.reasoned
        ]
        return {
            "prompt": self.prompt,
            "verdicts": [answer.as_dict() for answer in self.answers],
            "after_reasoning": thoughts,
            "disputed": [criterion for criterion in self.criteria if self.disputed(criterion)],
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }


def instructions_for(presets: Sequence[str], own: str) -> list[Instruction]:
    """The presets chosen, and criteria of one's own: a line each, ``name: what to judge by`` or the latter alone.

    Raises:
        InstructionError: nothing to judge by, no such preset, or too much of one's own.
    """
    chosen = [get_instruction(name) for name in presets]
    lines = [line.strip() for line in own.splitlines() if line.strip()]
    if len(own) > _LONGEST or len(lines) > _MOST_OWN:
        raise InstructionError(f"criteria of your own take at most {_MOST_OWN} lines and {_LONGEST} letters in all")
    for number, line in enumerate(lines, start=1):
        name, colon, said = line.partition(":")
        if not colon or not said.strip() or len(name) > 40:
            name, said = f"own {number}", line
        chosen.append(Instruction(name.strip(), said.strip(), (name.strip(),)))
    if not chosen:
        raise InstructionError("there is nothing to judge by; choose a criterion, or write one")
    if len({item.name for item in chosen}) < len(chosen):
        raise InstructionError("two criteria have the same name; give yours another")
    return chosen


def ask(
    judge: Judge, name: str, a: Image.Image, b: Image.Image, prompt: str, by: Instruction, explain: bool = False
) -> Answer:
    """Have both orders of a pair judged."""
    forward, backward = judge.compare([a, b], [b, a], prompt, instruction=by, debias=False, explain=explain)
    return Answer(name, by.name, forward, backward)


def compare(
    find: Callable[[str], Judge],
    judges: Sequence[str],
    a: Image.Image,
    b: Image.Image,
    prompt: str,
    by: Sequence[Instruction],
    explain: bool = False,
    notes: Sequence[str] = (),
) -> Iterator[Comparison]:
    """Ask every judge by every instruction, then have each explain itself by the first of them.

    A judge that cannot be loaded or cannot answer does not stop the others.

    Yields:
        What is known, whenever there is more of it. Direct verdicts come first: a thought takes many times as long.

    Raises:
        PromptTextError: an empty prompt.
        ModelError: no judge was named, or not one could answer.
    """
    if not prompt.strip():
        raise PromptTextError("the prompt is empty; say what the pictures were to show")
    if not judges:
        raise ModelError("no judge is chosen; choose at least one")
    known = Comparison(prompt, notes=tuple(notes))
    failures: dict[str, str] = {}
    for name in judges:
        try:
            found: tuple[Answer, ...] = tuple(ask(find(name), name, a, b, prompt, item) for item in by)
        except RewardDanceError as error:
            failures[name] = str(error)
            found = ()
        known = replace(known, answers=known.answers + found, failures=_pairs(failures))
        yield known
    if not known.answers:
        raise ModelError("; ".join(failures.values()))
    for name in [name for name in judges if explain and name not in failures]:
        try:
            thought: tuple[Answer, ...] = (ask(find(name), name, a, b, prompt, by[0], explain=True),)
        except RewardDanceError as error:
            failures[name] = str(error)
            thought = ()
        known = replace(known, reasoned=known.reasoned + thought, failures=_pairs(failures))
        yield known


def _pairs(failures: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(failures.items())
