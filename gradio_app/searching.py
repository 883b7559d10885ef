"""What the tab Best of N computes: samples as they are made, ranked all the while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from diffusers_ext.ranking import METHODS, RankingError, rank
from diffusers_ext.sampling import RandomSearch, RewardGuidedPipeline

if TYPE_CHECKING:
    from PIL import Image

    from diffusers_ext.ranking import Judge
    from diffusers_ext.rewards.instructions import Instruction

_BATCH: Final = 4
"""Samples at a time: few, so that they appear soon."""


@dataclass(frozen=True)
class Point:
    """Where the search stood after so many network evaluations: log-odds of the best sample and of the mean one."""

    evaluations: int
    best: float
    mean: float


@dataclass(frozen=True)
class Search:
    """A search so far.

    Attributes:
        images: the samples in the order in which they were made.
        seeds: the seed of each.
        rewards: what each is ranked by; see :class:`~diffusers_ext.ranking.Ranking`.
        order: their places, best first.
        evaluations: how often the network was evaluated on one latent; with classifier-free guidance, twice a step.
        judgements: how many questions the judge was asked.
        trace: the way here.
        method: what the order rests on.
    """

    images: tuple[Image.Image, ...] = ()
    seeds: tuple[int, ...] = ()
    rewards: tuple[float, ...] = ()
    order: tuple[int, ...] = ()
    evaluations: int = 0
    judgements: int = 0
    trace: tuple[Point, ...] = ()
    method: str = "pointwise"

    @property
    def best(self) -> int:
        """Which sample is the best."""
        return self.order[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the samples best first."""
        ranked = [{"seed": self.seeds[index], "value": self.rewards[index]} for index in self.order]
        counts = {"evaluations": self.evaluations, "judgements": self.judgements}
        return {"method": self.method, "samples": ranked, **counts}


def search(
    painting: Callable[[], AbstractContextManager[Any]],
    judge: Judge,
    prompt: str,
    n: int,
    method: str,
    by: str | Instruction,
    seed: int,
    options: Mapping[str, Any],
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Search]:
    """Best-of-N, shown while it goes on.

    Samples are those of :func:`~diffusers_ext.ranking.best_of_n` with the same seed. Until all are there they are
    ranked pointwise; then, where another method is asked for, once more by that.

    Args:
        painting: gives the pipeline, to oneself.
        judge: the judge.
        prompt: what to paint.
        n: how many samples.
        method: how the final order is made.
        by: what to judge by.
        seed: of the first sample.
        options: handed on to the pipeline.
        cancel: asked between steps; once it returns true, :class:`~diffusers_ext.rewards.errors.Cancelled` is raised.

    Yields:
        The search after every batch, and at the end.
    """
    if n < 1 or method not in METHODS:
        raise RankingError(
            f"a search takes at least one sample and one of {', '.join(METHODS)}, not {n} and {method!r}"
        )
    known = Search()
    for start in range(0, n, _BATCH):
        count = min(_BATCH, n - start)
        with painting() as pipeline:
            painter = RewardGuidedPipeline(pipeline, judge, RandomSearch(count), batch_size=_BATCH)
            found = painter(prompt, instruction=by, seed=seed + start, cancel=cancel, **options)
        rewards = known.rewards + found.ranking.rewards
        evaluations = known.evaluations + found.evaluations
        known = replace(
            known,
            images=known.images + found.images,
            seeds=known.seeds + tuple(range(seed + start, seed + start + count)),
            rewards=rewards,
            order=tuple(int(place) for place in np.argsort(-np.array(rewards), kind="stable")),
            evaluations=evaluations,
            judgements=known.judgements + found.judgements,
            trace=(*known.trace, Point(evaluations, max(rewards), float(np.mean(rewards)))),
        )
        yield known
    if method != "pointwise" and n > 1:
        ranking = rank(known.images, prompt, judge, method=method, instruction=by, cancel=cancel)
        judgements = known.judgements + ranking.judgement_count
        yield replace(known, rewards=ranking.rewards, order=ranking.order, judgements=judgements, method=method)
