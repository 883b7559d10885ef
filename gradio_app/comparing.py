"""What the tab Compare computes: two pictures or videos, several judges and criteria, and where the judges disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from diffusers_ext.rewards.errors import InstructionError, ModelError, PromptTextError, RewardDanceError
from diffusers_ext.rewards.instructions import (
    DEFAULT_INSTRUCTION,
    DEFAULT_VIDEO_INSTRUCTION,
    PRESETS,
    Instruction,
    Task,
    get_instruction,
)
from diffusers_ext.rewards.judgement import Judgement
from diffusers_ext.rewards.videos import Clip

from .stopping import stoppable

if TYPE_CHECKING:
    from PIL import Image

    from diffusers_ext.ranking import Judge

Shown: TypeAlias = "Image.Image | Clip"


def _presets(task: Task, first: str) -> tuple[str, ...]:
    return tuple(sorted((name for name, item in PRESETS.items() if item.task == task), key=lambda name: name != first))


CRITERIA: Final = _presets("t2i", DEFAULT_INSTRUCTION)
"""The presets for pictures, the overall one first."""
VIDEO_CRITERIA: Final = _presets("t2v", DEFAULT_VIDEO_INSTRUCTION)
"""Those for videos."""
_MOST_OWN: Final = 8
_LONGEST: Final = 1000
_TICK: Final = 0.05
"""Seconds between looks at a thought that is being written."""


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
            "log_odds_of_yes": [self.forward.log_odds, self.backward.log_odds],
        }


@dataclass(frozen=True)
class Writing:
    """A thought so far: what a judge has written when asked about A, and when asked about B."""

    judge: str
    criterion: str
    about_a: str = ""
    about_b: str = ""


@dataclass(frozen=True)
class Comparison:
    """What is known so far.

    Attributes:
        prompt: what both were to show.
        answers: direct verdicts, judge by judge.
        reasoned: verdicts after a chain of thought; the thoughts are the `explanation` of either order.
        failures: of each judge that could not answer, why.
        notes: what else is to be said.
        writing: what is being written.
        own: criteria of one's own, as they were given.
    """

    prompt: str
    answers: tuple[Answer, ...] = ()
    reasoned: tuple[Answer, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    writing: Writing | None = None
    own: str = ""

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
            "criteria_of_your_own": self.own,
            "verdicts": [answer.as_dict() for answer in self.answers],
            "after_reasoning": thoughts,
            "disputed": [criterion for criterion in self.criteria if self.disputed(criterion)],
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }


def instructions_for(presets: Sequence[str], own: str, task: Task = "t2i") -> list[Instruction]:
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
        chosen.append(Instruction(name.strip(), said.strip(), (name.strip(),), task))
    if not chosen:
        raise InstructionError("there is nothing to judge by; choose a criterion, or write one")
    if len({item.name for item in chosen}) < len(chosen):
        raise InstructionError("two criteria have the same name; give yours another")
    return chosen


def ask(judge: Judge, name: str, a: Shown, b: Shown, prompt: str, by: Instruction, **options: Any) -> Answer:
    """Have both orders of a pair judged.

    Raises:
        ModelError: the judge takes no videos, and these are some.
    """
    compare = getattr(judge, "compare_videos", None) if isinstance(a, Clip) else judge.compare
    if compare is None:
        raise ModelError(f"{name}: takes no videos")
    forward, backward = compare([a, b], [b, a], prompt, instruction=by, debias=False, **options)
    return Answer(name, by.name, forward, backward)


def think(judge: Judge, name: str, a: Shown, b: Shown, prompt: str, by: Instruction) -> Iterator[Writing | Answer]:
    """The same after a chain of thought, which is told while it is written.

    A judge that is served elsewhere hands its thoughts out whole.

    Yields:
        What has been written so far, and at the end the answer.
    """
    texts = ["", ""]
    aloud = {"on_text": texts.__setitem__} if hasattr(judge, "think") else {}

    def work(stopped: Callable[[], bool]) -> Iterator[Answer]:
        yield ask(judge, name, a, b, prompt, by, explain=True, cancel=stopped, **aloud)

    for answer in stoppable(work, _TICK):
        yield Writing(name, by.name, *texts) if answer is None else answer


def compare(
    find: Callable[[str], Judge],
    judges: Sequence[str],
    a: Shown,
    b: Shown,
    prompt: str,
    by: Sequence[Instruction],
    explain: bool = False,
    notes: Sequence[str] = (),
    own: str = "",
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
        raise PromptTextError("the prompt is empty; say what both were to show")
    if not judges:
        raise ModelError("no judge is chosen; choose at least one")
    known = Comparison(prompt, notes=tuple(notes), own=own)
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
            for thought in think(find(name), name, a, b, prompt, by[0]):
                if isinstance(thought, Answer):
                    known = replace(known, reasoned=(*known.reasoned, thought), writing=None)
                elif thought != known.writing:
                    known = replace(known, writing=thought)
                yield known
        except RewardDanceError as error:
            failures[name] = str(error)
            known = replace(known, failures=_pairs(failures), writing=None)
            yield known


def _pairs(failures: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(failures.items())
