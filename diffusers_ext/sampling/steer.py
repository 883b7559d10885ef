"""Paint one prompt as many particles, let a judge thin them out on the way, and rank what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ranking import Judge, Ranking, rank
from ..rewards.errors import PromptTextError
from ..rewards.instructions import DEFAULT_INSTRUCTION, Instruction, get_instruction
from .decoding import decode
from .levels import SamplingError
from .particles import Check, Steering
from .selection import Selection

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Steered:
    """What became of the particles.

    Attributes:
        images: the pictures of all particles.
        ranking: their order by the judge.
        checks: what happened on the way.
        evaluations: network evaluations, one per particle and step (classifier-free guidance counts as one).
        judgements: how many the judge gave, on the way and at the end.
    """

    images: tuple[Image.Image, ...]
    ranking: Ranking
    checks: tuple[Check, ...]
    evaluations: int
    judgements: int

    @property
    def best(self) -> Image.Image:
        """The winner."""
        return self.images[self.ranking.best]


def steer(
    pipeline: Any,
    prompt: str,
    reward_model: Judge,
    select: Selection,
    particles: int = 8,
    looks: tuple[float, ...] = (0.3, 0.5, 0.7),
    churn: float = 1.0,
    instruction: str | Instruction = DEFAULT_INSTRUCTION,
    seed: int = 0,
    **pipeline_options: Any,
) -> Steered:
    """Search over paths or Feynman-Kac steering, on any text-to-image pipeline whose latents can be looked at.

    Particle i starts from the noise that candidate i of :func:`~diffusers_ext.ranking.best_of_n` is made from.

    Args:
        pipeline: a pipeline of diffusers that takes `callback_on_step_end`.
        prompt: what to paint.
        reward_model: the judge; its pointwise reward is what particles live by.
        select: :func:`~diffusers_ext.sampling.beam` or :func:`~diffusers_ext.sampling.feynman_kac`.
        particles: how many, all in one batch.
        looks: when to judge and select, as shares of the steps, each in (0, 1).
        churn: share of a copy's noise that is fresh, in [0, 1].
        instruction: what to judge by.
        seed: of the first particle; the fresh noise and the selection follow from it too.
        **pipeline_options: handed on to the pipeline, e.g. `num_inference_steps`.

    Raises:
        SamplingError: a pipeline that cannot be steered, fewer than one particle or than three steps, looks outside
            (0, 1), or a judge that gives no finite reward.
        PromptTextError: an empty prompt.
    """
    import torch

    if not prompt.strip():
        raise PromptTextError("the prompt is empty; say what to paint")
    if particles < 1:
        raise SamplingError(f"there must be at least one particle, not {particles}")
    if not all(0 < share < 1 for share in looks):
        raise SamplingError(f"looks are shares of the steps between 0 and 1, not {looks}")
    by = get_instruction(instruction)

    def judge(clean: Tensor) -> np.ndarray:
        judged = reward_model.score(decode(pipeline, clean), prompt, instruction=by)
        return np.array([item.log_odds for item in judged])

    watch = _Watch(Steering(judge, select, (), churn, seed), looks)
    generators = [torch.Generator("cpu").manual_seed(seed + number) for number in range(particles)]
    try:
        output = pipeline([prompt] * particles, generator=generators, callback_on_step_end=watch, **pipeline_options)
    except TypeError as error:
        if "callback_on_step_end" not in str(error):
            raise
        raise SamplingError(
            f"{type(pipeline).__name__} takes no callback_on_step_end, so it cannot be steered; "
            "best_of_n works with any pipeline"
        ) from error
    ranking = rank(output.images, prompt, reward_model, method="pointwise", instruction=by)
    checks = tuple(watch.steering.checks)
    return Steered(
        tuple(output.images),
        ranking,
        checks,
        particles * watch.count,
        particles * len(checks) + ranking.judgement_count,
    )


@dataclass
class _Watch:
    """Turns shares of the steps into steps once their number is known, and counts them."""

    steering: Steering
    looks: tuple[float, ...]
    count: int = 0

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        total = len(pipeline.scheduler.timesteps)
        if step == 0:
            if total < 3:
                raise SamplingError(f"steering takes at least three steps, not {total}; raise num_inference_steps")
            self.steering.steps = sorted({min(max(1, round(share * total)), total - 2) for share in self.looks})
        self.count += 1
        return self.steering(pipeline, step, timestep, tensors)
