"""Run a pipeline of diffusers from any point of its way to any other, from given latents, and count what that takes.

A pipeline knows one way only, from noise to a picture. Three small interventions, all undone at the end of a call, make
it take any part of it: what `prepare_latents` returns is replaced, the scheduler's first steps are left out, and the
pipeline is interrupted after the last step that is wanted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from .decoding import Canvas, decode, family_of, is_known
from .intervening import (
    Callback,
    Stop,
    Watch,
    barless,
    free,
    late,
    levels_or_error,
    replaced,
    watched,
    watching_denoisers,
)
from .levels import Levels, SamplingError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Painted:
    """What came of one run.

    Attributes:
        latents: where the run ended, [B, ...], as the pipeline has them between steps; None of a pipeline whose steps
            cannot be watched.
        clean: the clean latents that its last step tells of; None after less than one step.
        images: B pictures (or videos, as lists of frames) if it ran to the end, else empty.
    """

    latents: Tensor | None
    clean: Tensor | None
    images: tuple[Any, ...]

    def rows(self, places: Sequence[int]) -> Tensor:
        """The latents of some of them, copied.

        Raises:
            SamplingError: they were not seen.
        """
        if self.latents is None:
            raise SamplingError(
                "the pipeline's steps could not be watched; RandomSearch (best-of-N) needs none of them"
            )
        return self.latents[list(places)]


@dataclass
class Painter:
    """A pipeline, a prompt, and how they are to be run.

    Attributes:
        pipeline: a pipeline of diffusers.
        prompt: what to paint.
        options: handed on to the pipeline.
        batch_size: the most pictures per run, where they need not be together.
        advance: called with the number of pictures after every step.
        evaluations: how often the denoiser was evaluated on one latent. Classifier-free guidance evaluates it twice
            per step, and counts twice.
        canvas: what is painted on, known after the first run.
    """

    pipeline: Any
    prompt: str
    options: dict[str, Any]
    batch_size: int = 8
    advance: Callable[[int], None] | None = None
    evaluations: int = 0
    canvas: Canvas | None = None
    _levels: dict[int | None, Levels | SamplingError] = field(default_factory=dict)

    def noise(self, seeds: Sequence[int], steps: int | None = None) -> Tensor:
        """The latents that the pipeline would begin with for these seeds, [B, ...]. The denoiser is not run."""
        import torch

        found: list[Tensor] = []

        def stop(rows: int) -> None:
            self._levels[steps] = levels_or_error(self.pipeline.scheduler)
            raise Stop

        def keep(latents: Tensor) -> Tensor:
            found.append(latents)
            return latents

        for batch in _batches(seeds, self.batch_size):
            with ExitStack() as stack, barless(self.pipeline), suppress(Stop):
                self._prepared(stack, keep)
                stack.enter_context(watching_denoisers(self.pipeline, stop))
                self.pipeline(**{**self._call(batch, steps), "output_type": "latent"})
            free(self.pipeline)
        if not found or steps not in self._levels:
            raise SamplingError(self._opaque("prepares its noise in a way that is not known, so none can be chosen"))
        return torch.cat(found)

    def paint(
        self,
        seeds: Sequence[int],
        latents: Tensor | None = None,
        begin: int = 0,
        end: int | None = None,
        steps: int | None = None,
        callback: Callback | None = None,
        together: bool = False,
    ) -> Painted:
        """Run the pipeline, or a part of its way.

        Args:
            seeds: B seeds, one generator each.
            latents: where to begin, [B, ...]; by default the noise that the seeds give.
            begin: the step to begin with.
            end: the step to stop before; None for the end.
            steps: in how many the whole way is to be cut; by default as the options say.
            callback: called after every step; `step` counts from `begin`, and so does the scheduler.
            together: all in one batch, for a callback that compares them.
        """
        import torch

        size = len(seeds) if together else self.batch_size
        runs = [
            self._run(
                batch, None if latents is None else latents[place : place + len(batch)], begin, end, steps, callback
            )
            for place, batch in zip(range(0, len(seeds), size), _batches(seeds, size), strict=True)
        ]

        def joined(parts: list[Tensor | None]) -> Tensor | None:
            return None if parts[0] is None else torch.cat([part for part in parts if part is not None])

        images = tuple(image for run in runs for image in run.images)
        return Painted(joined([run.latents for run in runs]), joined([run.clean for run in runs]), images)

    def differentiable(self, seeds: Sequence[int], latents: Tensor, steps: int | None = None) -> Tensor:
        """The latents that the whole way leads to, [B, ...], differentiable in those it begins with.

        Every step's activations are kept, so this is for few steps; `enable_gradient_checkpointing` of the denoiser
        helps as it does in training.
        """
        run = getattr(type(self.pipeline).__call__, "__wrapped__", None)  # what is inside of @torch.no_grad()
        if run is None:
            raise SamplingError(self._opaque("lets no gradient through its call"))
        with ExitStack() as stack, barless(self.pipeline):
            self._prepared(stack, lambda _: latents)
            stack.enter_context(watching_denoisers(self.pipeline, self._count))
            output = run(self.pipeline, **{**self._call(seeds, steps), "output_type": "latent"})
        return _made(output, self.pipeline)

    def levels(self, steps: int | None = None) -> Levels:
        """Signal and noise at all points of the way, known once :meth:`noise` was asked for or the way was gone.

        Raises:
            SamplingError: the scheduler keeps none that can be used.
        """
        levels = self._levels[steps]
        if isinstance(levels, SamplingError):
            raise levels
        return levels

    def decode(self, latents: Tensor | None) -> list[Any]:
        """Pictures or videos of latents as the pipeline has them between steps.

        Raises:
            SamplingError: a pipeline whose latents are not known.
        """
        family_of(self.pipeline)
        if self.canvas is None or latents is None:
            raise SamplingError("nothing was painted yet, so it is not known on what")
        return decode(self.pipeline, latents, self.canvas)

    def _run(
        self,
        seeds: Sequence[int],
        latents: Tensor | None,
        begin: int,
        end: int | None,
        steps: int | None,
        callback: Callback | None,
    ) -> Painted:
        way = Watch(latents, None if end is None else end - begin - 1, callback, self.advance, len(seeds))
        call = self._call(seeds, steps)
        output = None
        seen = hasattr(self.pipeline, "prepare_latents") or end is not None or callback is not None
        with ExitStack() as stack, barless(self.pipeline):
            stack.enter_context(watching_denoisers(self.pipeline, self._count))
            if seen:
                self._prepared(stack, way.begin)
                stack.enter_context(late(self.pipeline.scheduler, begin))
                call |= watched(stack, self.pipeline, way)
            here = is_known(self.pipeline) and family_of(self.pipeline).decoded_here
            if end is not None or here:
                call["output_type"] = "latent"
            try:
                output = self.pipeline(**call)
            except Stop:
                free(self.pipeline)
        if way.levels is not None and begin == 0:
            self._levels[steps] = way.levels
        images: tuple[Any, ...] = ()
        if end is None:
            made = _made(output, self.pipeline)
            images = tuple(self.decode(made) if here else made)
        if len(images) != (len(seeds) if end is None else 0):
            raise SamplingError(f"{type(self.pipeline).__name__} made {len(images)} pictures of {len(seeds)} prompts")
        return Painted(way.after, way.clean(), images)

    def _call(self, seeds: Sequence[int], steps: int | None) -> dict[str, Any]:
        import torch

        call = {**self.options, "prompt": [self.prompt] * len(seeds)}
        # Noise drawn on the CPU is the same on every device.
        call["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if steps is not None:
            call["num_inference_steps"] = steps
        if call.get("image") is not None and is_known(self.pipeline) and family_of(self.pipeline).picture_each:
            call["image"] = [call["image"]] * len(seeds)
        return call

    def _prepared(self, stack: ExitStack, begin: Callable[[Tensor], Tensor]) -> None:
        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(original)
            def prepare_latents(*args: Any, **kwargs: Any) -> Any:
                given = inspect.signature(original).bind(*args, **kwargs).arguments
                self.canvas = self._canvas(given)
                found = original(*args, **kwargs)
                latents, rest = (found[0], found[1:]) if isinstance(found, tuple) else (found, None)
                if rest is not None and is_known(self.pipeline):
                    self.canvas = replace(self.canvas, given=family_of(self.pipeline).given(self.pipeline, rest))
                chosen = begin(latents).to(latents)
                return chosen if rest is None else (chosen, *rest)

            return prepare_latents

        if hasattr(self.pipeline, "prepare_latents"):
            stack.enter_context(replaced(self.pipeline, "prepare_latents", make))

    def _canvas(self, given: dict[str, Any]) -> Canvas:
        height, width = int(given.get("height") or 0), int(given.get("width") or 0)
        asked = self.options.get("height"), self.options.get("width")
        crop = (int(asked[0] or height), int(asked[1] or width))
        frames, timestep = int(given.get("num_frames") or 1), self.options.get("decode_timestep", 0.0)
        return Canvas(height, width, frames, None if crop == (height, width) else crop, timestep)

    def _count(self, rows: int) -> None:
        self.evaluations += rows

    def _opaque(self, what: str) -> str:
        return f"{type(self.pipeline).__name__} {what}; RandomSearch (best-of-N) works with any pipeline"


def _batches(seeds: Sequence[int], size: int) -> list[Sequence[int]]:
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def _made(output: Any, pipeline: Any) -> Any:
    for name in ("images", "frames"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    raise SamplingError(f"{type(pipeline).__name__} returned neither images nor frames")
