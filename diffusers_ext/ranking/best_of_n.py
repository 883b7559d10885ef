"""Paint N, keep the best: the plainest way to spend compute on quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..rewards.errors import Cancelled, PromptTextError
from ..rewards.instructions import DEFAULT_INSTRUCTION, Instruction, get_instruction
from .methods import METHODS, Judge, Ranking, RankingError, check, rank

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class BestOfN:
    """N pictures of one prompt and their order.

    Attributes:
        images: the pictures in the order in which they were made.
        seeds: the seed of each.
        ranking: their order and what it rests on.
    """

    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]
    ranking: Ranking

    @property
    def best(self) -> Image.Image:
        """The winner."""
        return self.images[self.ranking.best]

    @property
    def ranked(self) -> list[Image.Image]:
        """All pictures, best first."""
        return [self.images[index] for index in self.ranking.order]


def best_of_n(
    pipeline: Any,
    prompt: str,
    n: int,
    reward_model: Judge,
    method: str = "pointwise",
    instruction: str | Instruction = DEFAULT_INSTRUCTION,
    reference: Any = None,
    debias: bool = True,
    seed: int = 0,
    batch_size: int = 8,
    progress: bool = False,
    cancel: Callable[[], bool] | None = None,
    **pipeline_options: Any,
) -> BestOfN:
    """Have any diffusers text-to-image pipeline paint a prompt `n` times, and rank what comes out.

    Candidate i is made from a generator of its own, seeded `seed + i`, so the pictures do not depend on the batch size
    and any of them can be made again alone.

    Args:
        pipeline: called as ``pipeline([prompt, ...], generator=[...], **pipeline_options)``.
        prompt: what to paint.
        n: how many.
        reward_model: the judge.
        method: see :func:`~diffusers_ext.ranking.rank`.
        instruction: what to judge by.
        reference: see :func:`~diffusers_ext.ranking.rank`.
        debias: ask every comparison in both orders.
        seed: seed of the first candidate.
        batch_size: pictures per call of the pipeline.
        progress: show progress on stderr.
        cancel: asked between batches; once it returns true, :class:`Cancelled` is raised.
        **pipeline_options: handed on to the pipeline, e.g. `num_inference_steps`.

    Raises:
        RankingError: `n` or `batch_size` below one, what :func:`~diffusers_ext.ranking.rank` refuses, or a pipeline
            that does not return pictures.
        PromptTextError: an empty prompt.
        InstructionError: no such instruction.
        Cancelled: the caller asked to stop.
    """
    if n < 1:
        raise RankingError(f"best-of-N needs at least one picture, not {n}")
    if batch_size < 1:
        raise RankingError(f"the batch size must be at least one, not {batch_size}")
    if not prompt.strip():
        raise PromptTextError("the prompt is empty; say what to paint")
    if n == 1 and reference is None and method in METHODS:
        method = "pointwise"
    check(n, method, reference)  # before the costly part
    by = get_instruction(instruction)
    seeds = tuple(range(seed, seed + n))
    images = _paint(pipeline, prompt, seeds, batch_size, progress, cancel, pipeline_options)
    ranking = rank(
        images,
        prompt,
        reward_model,
        method=method,
        instruction=by,
        reference=reference,
        debias=debias,
        progress=progress,
        cancel=cancel,
    )
    return BestOfN(tuple(images), seeds, ranking)


def _paint(
    pipeline: Any,
    prompt: str,
    seeds: tuple[int, ...],
    batch_size: int,
    progress: bool,
    cancel: Callable[[], bool] | None,
    options: dict[str, Any],
) -> list[Image.Image]:
    import torch
    from rich.console import Console
    from rich.progress import track

    images: list[Image.Image] = []
    starts = range(0, len(seeds), batch_size)
    for start in track(
        starts, f"painting {len(seeds)}", disable=not progress, console=Console(stderr=True), transient=True
    ):
        if cancel is not None and cancel():
            raise Cancelled(f"stopped as asked, after {len(images)} of {len(seeds)} pictures")
        batch = seeds[start : start + batch_size]
        # Noise drawn on the CPU is the same on every device.
        generators = [torch.Generator("cpu").manual_seed(number) for number in batch]
        output = pipeline([prompt] * len(batch), generator=generators, **options)
        found = getattr(output, "images", None)
        if found is None or len(found) != len(batch):
            raise RankingError(
                f"{type(pipeline).__name__} did not return one picture per prompt in `.images`; "
                "best-of-N needs a text-to-image pipeline"
            )
        images += found
    return images
