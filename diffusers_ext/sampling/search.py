"""Search: many beginnings or many paths, of which the judge keeps the best.

Each method is a value: what it is to do. Called with a session it does so, and returns the finished pictures and their
order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logit

from ..ranking import Ranking
from .levels import SamplingError
from .session import Session, best_first
from .shares import check_least, check_probability, check_share, step_at, steps_of

if TYPE_CHECKING:
    from torch import Tensor

Found = tuple[tuple[Any, ...], Ranking]
"""Finished pictures (or videos) and their order."""


@dataclass(frozen=True)
class RandomSearch:
    """Best-of-N: paint `n` pictures from as many noises, keep the best.

    Attributes:
        n: how many are begun.
        keep: how many of them are finished; the others are left when the judge has looked at what they are about to
            become. None for all.
        look: when, as a share of the steps.
    """

    n: int = 8
    keep: int | None = None
    look: float = 0.4

    def __post_init__(self) -> None:
        check_least("n", self.n, 1)
        if self.keep is not None:
            check_least("keep", self.keep, 1)
        check_share("look", self.look)

    def __call__(self, session: Session) -> Found:
        painter, seeds = session.painter, session.seeds(self.n)
        if self.keep is None or self.keep >= self.n:
            images = painter.paint(seeds).images
            return images, session.rank(images)
        noise = painter.noise(seeds)
        step = step_at(self.look, steps_of(session))
        begun = painter.paint(seeds, noise, end=step)
        rewards, nodes = session.look(painter.decode(begun.clean), f"step {step}")
        kept = best_first(rewards)[: self.keep].tolist()
        images = painter.paint([seeds[place] for place in kept], begun.rows(kept), begin=step).images
        return images, session.rank(images, [nodes[place] for place in kept])


@dataclass(frozen=True)
class Drafts:
    """Draft many pictures in few steps, and paint the best of them in full.

    A model that needs many steps for a good picture needs few to decide what is in it, and much the same grows from the
    same noise. A draft can also be worked out from half-way: it is mixed with its noise up to the level of a step of
    the full way, and painted from there. Painting anew costs more, and gives the judge a second opinion to form.

    What is left over where the first drafts are good enough is better spent on prompts that are hard: with `enough`,
    drafts are made in lots until the judge is that sure of one.

    Attributes:
        n: how many drafts, at most.
        steps: denoising steps of a draft.
        keep: how many are painted in full.
        begin: from where, as a share of the full way's steps; 0 paints anew, and higher values keep more of the draft.
        enough: the probability of yes, in (0, 1], at which no further lot is drafted; at 1 all are. It means what it
            says where the judge is calibrated.
        lot: how many are drafted between one look and the next; None for all at once.
    """

    n: int = 24
    steps: int = 5
    keep: int = 2
    begin: float = 0.0
    enough: float = 1.0
    lot: int | None = None

    def __post_init__(self) -> None:
        check_least("n", self.n, 1)
        check_least("steps", self.steps, 1)
        check_least("keep", self.keep, 1)
        if not 0 <= self.begin < 1:
            raise SamplingError(f"begin is a share of the steps in [0, 1), not {self.begin}")
        check_probability("enough", self.enough)
        if self.lot is not None:
            check_least("lot", self.lot, 1)
        elif self.enough < 1:
            raise SamplingError("to end as soon as a draft is good enough, set lot: how many are drafted at a time")

    def __call__(self, session: Session) -> Found:
        painter, seeds = session.painter, session.seeds(self.n)
        noise = painter.noise(seeds)
        step = round(self.begin * steps_of(session))
        drafted = noise.clone()
        rewards: list[float] = []
        nodes: list[int | None] = []
        lot = self.lot or self.n
        for first in range(0, self.n, lot):
            place = slice(first, first + lot)
            drafts = painter.paint(seeds[place], noise[place], steps=self.steps)
            found, looked = session.look(drafts.images, f"{self.steps} steps")
            rewards += found.tolist()
            nodes += looked
            if step:
                drafted[place] = drafts.rows(range(len(found)))
            if max(rewards) >= logit(self.enough):
                break
        kept = best_first(np.array(rewards))[: self.keep].tolist()
        start = noise[kept]
        if step:
            levels = painter.levels()
            # The scheduler's own noise may be scaled; e is of unit variance.
            start = levels.mixed(step, drafted[kept], start / levels.noise[0])
        images = painter.paint([seeds[place] for place in kept], start, begin=step).images
        return images, session.rank(images, [nodes[place] for place in kept])


@dataclass(frozen=True)
class Redrafts:
    """Draft pictures in few steps, by turns anew and from the best so far, until the judge is sure of one.

    Where a prompt is hard, hardly one of many noises gives a right picture, but one that is nearly right is found soon,
    and what it lacks is found near it more often than anywhere. So every other round noises the best drafts back in
    several ways and drafts on from there: search over paths (Ma et al. 2025, arXiv 2501.09732, section 3.1), but each
    look is at a whole picture rather than at the prediction of one. The rounds between look elsewhere, for when the
    best is a dead end.

    Attributes:
        n: drafts of a round.
        rounds: the most rounds; the first, third and so on begin with new noise.
        paths: how many of the best so far the other rounds go on from.
        back: how far these are noised back, as a share of the way.
        steps: denoising steps of a whole draft.
        keep: how many are painted in full in the end, from where their drafts began.
        enough: the probability of yes, in (0, 1], at which no further round is begun; at 1 all are. It means what it
            says where the judge is calibrated.
    """

    n: int = 8
    rounds: int = 11
    paths: int = 2
    back: float = 0.6
    steps: int = 5
    keep: int = 2
    enough: float = 0.95

    def __post_init__(self) -> None:
        for name in ("n", "rounds", "paths", "keep"):
            check_least(name, getattr(self, name), 1)
        check_least("steps", self.steps, 2)
        check_share("back", self.back)
        check_probability("enough", self.enough)

    def __call__(self, session: Session) -> Found:
        import torch

        painter, rng = session.painter, np.random.default_rng(session.seed)
        seeds = session.seeds(self.n * ((self.rounds + 1) // 2))
        noise = painter.noise(seeds)
        at, full = (min(max(1, round((1 - self.back) * total)), total - 1) for total in (self.steps, steps_of(session)))
        rewards: list[float] = []
        nodes: list[int | None] = []
        clean: list[Tensor] = []
        ways: list[tuple[int, int, Tensor]] = []  # seed, and the step and the latents that the full way begins with
        for number in range(self.rounds):
            place = slice(number // 2 * self.n, (number // 2 + 1) * self.n)
            if number % 2 == 0:
                parents: list[int | None] = [None] * self.n
                drafts = painter.paint(seeds[place], noise[place], steps=self.steps)
                ways += zip(seeds[place], [0] * self.n, noise[place], strict=True)
            else:
                best = np.resize(best_first(np.array(rewards))[: self.paths], self.n).tolist()
                parents = [nodes[index] for index in best]
                base = torch.stack([clean[index] for index in best])
                fresh = _normal(base, rng)
                begun = painter.levels(self.steps).mixed(at, base, fresh)
                drafts = painter.paint(seeds[place], begun, begin=at, steps=self.steps)
                ways += zip(seeds[place], [full] * self.n, painter.levels().mixed(full, base, fresh), strict=True)
            found, looked = session.look(drafts.images, f"round {number + 1}", parents)
            rewards, nodes = rewards + found.tolist(), nodes + looked
            clean += drafts.rows(range(self.n))
            if max(rewards) >= logit(self.enough):
                break
        kept = best_first(np.array(rewards))[: self.keep].tolist()
        images = [
            image
            for seed, begin, start in (ways[index] for index in kept)
            for image in painter.paint([seed], start[None], begin=begin).images
        ]
        return tuple(images), session.rank(images, [nodes[index] for index in kept])


@dataclass(frozen=True)
class ZeroOrder:
    """Zero-order search over the initial noise (Ma et al. 2025, arXiv 2501.09732, section 3.1).

    Each round paints pictures from noises near a pivot, and the best of them, if it beats the pivot, is the next pivot.
    Near means ``sqrt(1 - radius^2) * pivot + radius * fresh``, which is as normal as the pivot is. The paper's radius
    is a distance between noises and pushes them off their sphere.

    Attributes:
        n: noises of the first round; its best is the first pivot.
        neighbours: noises of every later round.
        rounds: how many rounds follow the first.
        radius: share of fresh noise, in (0, 1].
        steps: denoising steps of a picture that only searches; the last pivot is painted in full. None for all.
    """

    n: int = 4
    neighbours: int = 4
    rounds: int = 2
    radius: float = 0.5
    steps: int | None = None

    def __post_init__(self) -> None:
        check_least("n", self.n, 1)
        check_least("neighbours", self.neighbours, 1)
        check_least("rounds", self.rounds, 0)
        if not 0 < self.radius <= 1:
            raise SamplingError(f"the radius is a share in (0, 1], not {self.radius}")
        if self.steps is not None:
            check_least("steps", self.steps, 1)

    def __call__(self, session: Session) -> Found:
        painter, seeds = session.painter, session.seeds(self.n)
        noises = painter.noise(seeds)
        scale = noise_scale(noises)
        rng = np.random.default_rng(session.seed)
        pivot: tuple[float, int | None, Tensor, Any] = (-np.inf, None, noises[:1], None)
        parents: list[int | None] = [None] * self.n
        for number in range(self.rounds + 1):
            images = painter.paint(seeds, noises, steps=self.steps).images
            rewards, nodes = session.look(images, f"round {number + 1}", parents)
            best = int(best_first(rewards)[0])
            if number == 0 or rewards[best] > pivot[0]:
                pivot = (float(rewards[best]), nodes[best], noises[best : best + 1], images[best])
            fresh = scale * _normal(pivot[2].expand(self.neighbours, *pivot[2].shape[1:]), rng)
            noises = (1 - self.radius**2) ** 0.5 * pivot[2] + self.radius * fresh
            seeds, parents = session.seeds(self.neighbours), [pivot[1]] * self.neighbours
        images = (pivot[3],) if self.steps is None else painter.paint(seeds[:1], pivot[2]).images
        return images, session.rank(images, [pivot[1]])


@dataclass(frozen=True)
class SearchOverPaths:
    """Search over paths (Ma et al. 2025, arXiv 2501.09732, section 3.1), as RewardDance uses its pointwise verifier.

    Paths go down to a noise level. Then, again and again, every path is noised back a little in several ways, the ways
    are denoised a little further than that, and the judge keeps the most promising of all.

    Attributes:
        paths: how many are kept.
        copies: ways of going on from each.
        begin: where the first look is, as a share of the steps.
        back: share of the steps that a path is noised back by.
        ahead: share of the steps that it is then denoised by; more than `back`.
        rounds: the most rounds; the paths are finished after them.
    """

    paths: int = 2
    copies: int = 4
    begin: float = 0.4
    back: float = 0.2
    ahead: float = 0.3
    rounds: int = 3

    def __post_init__(self) -> None:
        for name in ("paths", "copies", "rounds"):
            check_least(name, getattr(self, name), 1)
        check_share("begin", self.begin)
        if not 0 <= self.back < self.ahead <= 1:
            raise SamplingError(f"a path goes further ahead than back, not {self.ahead} and {self.back}")

    def __call__(self, session: Session) -> Found:
        painter, seeds = session.painter, session.seeds(self.paths * self.copies)
        rng = np.random.default_rng(session.seed)
        noise = painter.noise(seeds)
        levels, total = painter.levels(), steps_of(session)
        at = step_at(self.begin, total)
        back = min(round(self.back * total), at - 1)
        ahead = max(back + 1, round(self.ahead * total))
        run = painter.paint(seeds, noise, end=at)
        rewards, nodes = session.look(painter.decode(run.clean), f"step {at}")
        for _ in range(self.rounds):
            kept = np.resize(best_first(rewards)[: self.paths], len(seeds)).tolist()
            start, stop = at - back, min(at - back + ahead, total - 1)
            if stop <= at:
                break
            # Noising from a level to a higher one: the signal shrinks by a ratio, and the missing variance is added.
            ratio = levels.signal[start] / levels.signal[at]
            missing = max(0.0, levels.noise[start] ** 2 - (ratio * levels.noise[at]) ** 2) ** 0.5
            begun = ratio * run.rows(kept) + missing * _normal(run.rows(kept), rng)
            tried = painter.paint(seeds, begun, begin=start, end=stop)
            found, numbers = session.look(painter.decode(tried.clean), f"step {stop}", [nodes[place] for place in kept])
            run, rewards, nodes, at = tried, found, numbers, stop
        kept = best_first(rewards)[: self.paths].tolist()
        images = painter.paint([seeds[place] for place in kept], run.rows(kept), begin=at).images
        return images, session.rank(images, [nodes[place] for place in kept])


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal noise of a tensor's shape, drawn on the CPU, so that it is the same on every device."""
    import torch

    generator = torch.Generator("cpu").manual_seed(int(rng.integers(2**62)))
    return torch.randn(like.shape, generator=generator).to(like)


def noise_scale(noise: Tensor) -> float:
    """The standard deviation of a scheduler's initial noise: one, but for those that begin at a large sigma."""
    return float(noise.float().square().mean().sqrt())
