"""What the tab Guided computes: particles left alone, and the same ones steered by a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from diffusers_ext.sampling import POTENTIALS, BeamSearch, FeynmanKac, Guided, RewardGuidedPipeline, SamplingError

if TYPE_CHECKING:
    from diffusers_ext.ranking import Judge
    from diffusers_ext.rewards.instructions import Instruction

METHODS: Final = ("beam search", *(f"feynman-kac ({potential})" for potential in POTENTIALS))


@dataclass(frozen=True)
class Pair:
    """The particles with no guidance and with it, from the same noise.

    Attributes:
        steps: how many denoising steps a picture takes.
        base: left alone; the judge looked at them all the same.
        guided: steered; None until that is done.
    """

    steps: int
    base: Guided
    guided: Guided | None = None

    @property
    def runs(self) -> dict[str, Guided]:
        return {"base": self.base} | ({} if self.guided is None else {"guided": self.guided})

    def curve(self) -> list[tuple[int, float, str]]:
        """How the rewards went: (step, log-odds, of what); the last step is that of the finished pictures."""
        rows: list[tuple[int, float, str]] = []
        for name, run in self.runs.items():
            seen: dict[int, list[float]] = {}
            for node in run.trace.nodes:
                step = self.steps if node.final else int(node.stage.removeprefix("step "))
                seen.setdefault(step, []).append(node.reward)
            for which, summary in (("best", np.max), ("mean", np.mean)):
                rows += [(step, float(summary(rewards)), f"{name}, {which}") for step, rewards in seen.items()]
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            name: {
                "rewards": list(run.ranking.rewards),
                "evaluations": run.evaluations,
                "judgements": run.judgements,
                "trace": run.trace.as_dict()["nodes"],
            }
            for name, run in self.runs.items()
        }


def method_of(name: str, particles: int, looks: int, width: int, strength: float) -> BeamSearch | FeynmanKac:
    """A method by its name, with the judge's looks evenly spread over the steps.

    Raises:
        SamplingError: there is no such method, or its settings make no sense.
    """
    if name not in METHODS:
        raise SamplingError(f"no method {name!r}; there are {', '.join(METHODS)}")
    shares = tuple((number + 1) / (looks + 1) for number in range(looks))
    if name == METHODS[0]:
        return BeamSearch(particles, width, shares)
    return FeynmanKac(particles, strength, name.partition("(")[2].rstrip(")"), looks=shares)


def guide(
    painting: Callable[[], AbstractContextManager[Any]],
    judge: Judge,
    prompt: str,
    method: BeamSearch | FeynmanKac,
    by: str | Instruction,
    seed: int,
    options: Mapping[str, Any],
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Pair]:
    """Paint the particles without and with guidance.

    Without: Feynman-Kac with a strength of zero, which is the plain pipeline bit for bit, but watched.

    Args:
        painting: gives the pipeline, to oneself.
        judge: whose pointwise reward particles live by.
        prompt: what to paint.
        method: see :func:`method_of`.
        by: what to judge by.
        seed: of the first particle.
        options: handed on to the pipeline.
        cancel: asked between steps; once it returns true, :class:`~diffusers_ext.rewards.errors.Cancelled` is raised.

    Yields:
        The particles left alone, then both.
    """

    def run(how: BeamSearch | FeynmanKac) -> tuple[Guided, int]:
        with painting() as pipeline:
            guided = RewardGuidedPipeline(pipeline, judge, how)
            found = guided(prompt, instruction=by, seed=seed, cancel=cancel, **options)
            return found, len(pipeline.scheduler.timesteps)

    base, steps = run(FeynmanKac(method.particles, strength=0.0, looks=method.looks))
    yield Pair(steps, base)
    yield Pair(steps, base, run(method)[0])
