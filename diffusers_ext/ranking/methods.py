"""Ways to turn judgements into an order, from N questions to N (N - 1)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ..rewards.errors import RewardDanceError
from ..rewards.instructions import DEFAULT_INSTRUCTION, Instruction
from ..rewards.judgement import Judgement
from .bradley_terry import bradley_terry

if TYPE_CHECKING:
    from ..rewards.images import ImageInput


class RankingError(RewardDanceError):
    """A ranking that cannot be made as asked."""


class Judge(Protocol):
    """Whatever scores and compares: a :class:`~diffusers_ext.RewardModel`, or anything with the same face."""

    @property
    def score(self) -> Callable[..., list[Judgement]]: ...

    @property
    def compare(self) -> Callable[..., list[Judgement]]: ...


@dataclass(frozen=True)
class Ranking:
    """An order of candidates and what it rests on.

    Attributes:
        order: indices of the candidates, best first; of equals, the earlier one first.
        rewards: for each candidate, in the order given, the value it was ranked by. Its meaning depends on the method.
        judgements: every verdict, in the order in which they were made; `candidate` and `reference` in them are indices
            of candidates, but for a reference that was given beside them, which is called "reference".
        judgement_count: how many questions the judge was asked; a debiased comparison counts as two.
        method: how it was made.
    """

    order: tuple[int, ...]
    rewards: tuple[float, ...]
    judgements: tuple[Judgement, ...]
    judgement_count: int
    method: str

    @property
    def best(self) -> int:
        """Index of the winner."""
        return self.order[0]

    def telling(self, index: int) -> Judgement | None:
        """The verdict that says most about the place of a candidate, by its index.

        Its own where each is judged alone or against one reference; otherwise the winner's over the runner-up, and of
        the others the one against the next better (round-robin) or the last one (knockout). None for a first candidate
        that the others were held against.
        """
        if self.method in ("pointwise", "anchored"):
            return next((item for item in self.judgements if item.candidate == index), None)
        place = self.order.index(index)
        neighbour = self.order[place - 1 if place else 1]
        about = [item for item in self.judgements if index in (item.candidate, item.reference)]
        near = [item for item in about if neighbour in (item.candidate, item.reference)]
        return (near if near and (self.method == "round-robin" or not place) else about)[-1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "method": self.method,
            "order": list(self.order),
            "rewards": list(self.rewards),
            "judgement_count": self.judgement_count,
            "judgements": [judgement.as_dict() for judgement in self.judgements],
        }


@dataclass(frozen=True)
class _Contest:
    """The candidates and how to have them judged."""

    images: Sequence[Any]
    prompt: str
    judge: Judge
    instruction: str | Instruction
    reference: Any
    debias: bool
    options: dict[str, Any]

    def score(self) -> list[Judgement]:
        return self.judge.score(self.images, self.prompt, instruction=self.instruction, **self.options)

    def compare(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Judge pairs of candidates, all in one call; indices in the judgements are those of the candidates."""
        found = self.judge.compare(
            [self.images[first] for first, _ in pairs],
            [self.images[second] for _, second in pairs],
            self.prompt,
            instruction=self.instruction,
            debias=self.debias,
            **self.options,
        )
        return [_relabelled(judgement, *pair) for judgement, pair in zip(found, pairs, strict=True)]

    def count(self, judgements: Sequence[Judgement]) -> int:
        return sum(2 if judgement.debiased else 1 for judgement in judgements)


def _relabelled(judgement: Judgement, candidate: int, reference: int) -> Judgement:
    return replace(judgement, candidate=candidate, reference=reference)


def pointwise(contest: _Contest) -> Ranking:
    """Each candidate on its own: N questions. Ranked by log-odds, which do not saturate as rewards do."""
    judgements = contest.score()
    return _ranking("pointwise", [judgement.log_odds for judgement in judgements], judgements, len(judgements))


def anchored(contest: _Contest) -> Ranking:
    """Each candidate against one reference, as in the paper: N comparisons.

    Where no reference is given the first candidate serves as one: N - 1 comparisons, and its own log-odds are zero.
    """
    if contest.reference is None:
        others = contest.compare([(index, 0) for index in range(1, len(contest.images))])
        return _ranking("anchored", [0.0, *(judgement.log_odds for judgement in others)], others, contest.count(others))
    judgements = contest.judge.compare(
        contest.images,
        contest.reference,
        contest.prompt,
        instruction=contest.instruction,
        debias=contest.debias,
        **contest.options,
    )
    named = [replace(item, reference="reference") for item in judgements]
    return _ranking("anchored", [item.log_odds for item in named], named, contest.count(named))


def knockout(contest: _Contest) -> Ranking:
    """Single elimination: N - 1 comparisons, made round by round.

    Ranked by the rounds survived; of those who left in the same round, by how narrowly they lost.
    """
    left = list(range(len(contest.images)))
    judgements: list[Judgement] = []
    rewards = [0.0] * len(left)
    round_number = 0
    while len(left) > 1:
        pairs = list(zip(left[::2], left[1::2], strict=False))
        found = contest.compare(pairs)
        judgements += found
        survivors: list[int] = []
        for (first, second), judgement in zip(pairs, found, strict=True):
            winner, loser = (first, second) if judgement.log_odds >= 0 else (second, first)
            survivors.append(winner)
            # The loser's reward in this round lies in (0, 0.5], so rounds never overlap.
            rewards[loser] = round_number + 1.0 / (1.0 + np.exp(min(60.0, abs(judgement.log_odds))))
        left = survivors + left[2 * len(pairs) :]
        round_number += 1
    rewards[left[0]] = float(round_number)
    return _ranking("knockout", rewards, judgements, contest.count(judgements))


def round_robin(contest: _Contest) -> Ranking:
    """Everyone against everyone: N (N - 1) / 2 comparisons, made into strengths by Bradley-Terry.

    The probabilities themselves are the outcomes, so that a narrow win counts as one.
    """
    number = len(contest.images)
    pairs = [(first, second) for first in range(number) for second in range(first + 1, number)]
    judgements = contest.compare(pairs)
    wins = np.zeros((number, number))
    for (first, second), judgement in zip(pairs, judgements, strict=True):
        wins[first, second], wins[second, first] = judgement.reward, 1.0 - judgement.reward
    return _ranking("round-robin", bradley_terry(wins).tolist(), judgements, contest.count(judgements))


METHODS: Final[dict[str, Callable[[_Contest], Ranking]]] = {
    "pointwise": pointwise,
    "anchored": anchored,
    "knockout": knockout,
    "round-robin": round_robin,
}


def rank(
    images: Sequence[ImageInput],
    prompt: str,
    reward_model: Judge,
    method: str = "pointwise",
    instruction: str | Instruction = DEFAULT_INSTRUCTION,
    reference: ImageInput | None = None,
    debias: bool = True,
    **options: Any,
) -> Ranking:
    """Order pictures of one prompt, best first.

    Args:
        images: the candidates, as :meth:`RewardModel.score` takes them.
        prompt: what they were to show.
        reward_model: the judge.
        method: ``pointwise`` (N questions), ``anchored`` (N comparisons with a reference, as in the paper),
            ``knockout`` (N - 1 comparisons) or ``round-robin`` (N (N - 1) / 2 comparisons, Bradley-Terry).
        instruction: what to judge by.
        reference: the picture to hold candidates against; for ``anchored`` only.
        debias: ask every comparison in both orders.
        **options: handed on to the judge: `explain`, `batch_size`, `progress`, `cancel`.

    Raises:
        RankingError: no such method, no pictures, one picture where two are needed, or a reference that the method
            has no use for.
    """
    if isinstance(images, str) or not (isinstance(images, Sequence) or hasattr(images, "ndim")):
        raise RankingError(f"got {type(images).__name__} to rank; expected several pictures")
    check(len(images), method, reference)
    # A judge that can remember what it saw looks at each picture once, however many rounds there are.
    with getattr(reward_model, "remembering", nullcontext)():
        return METHODS[method](_Contest(images, prompt, reward_model, instruction, reference, debias, options))


def check(count: int, method: str, reference: Any = None) -> None:
    """Refuse what :func:`rank` cannot do, before there is anything to rank.

    Raises:
        RankingError: see :func:`rank`.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise RankingError(f"no ranking method is called {method!r}.{hint} There are {', '.join(METHODS)}.")
    if count == 0:
        raise RankingError("there is nothing to rank: no pictures were given")
    if reference is not None and method != "anchored":
        raise RankingError(
            f"the method {method!r} holds candidates against each other; a reference goes with 'anchored'"
        )
    if count == 1 and method != "pointwise" and reference is None:
        raise RankingError(f"the method {method!r} compares, and one picture has nothing to be compared with")


def _ranking(method: str, rewards: Sequence[float], judgements: Sequence[Judgement], count: int) -> Ranking:
    # A stable sort, so that of equals the earlier candidate comes first.
    order = np.argsort(-np.asarray(rewards, dtype=np.float64), kind="stable")
    return Ranking(
        tuple(int(index) for index in order), tuple(float(r) for r in rewards), tuple(judgements), count, method
    )
