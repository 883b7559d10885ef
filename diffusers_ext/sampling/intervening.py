"""What makes a pipeline take any part of its way, or tell what it does. All of it is undone at the end of a block."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from .levels import Levels, SamplingError, levels_of

if TYPE_CHECKING:
    from torch import Tensor

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""A `callback_on_step_end` of diffusers."""

_DENOISERS: Final = ("transformer", "transformer_2", "unet")


class Stop(Exception):
    """Leaves a pipeline that cannot be interrupted otherwise."""


@dataclass
class Watch:
    """Watches one run: where it begins, what its last step did, and where it is to stop."""

    given: Tensor | None
    last: int | None
    callback: Callback | None
    advance: Callable[[int], None] | None
    count: int
    before: Tensor | None = None
    after: Tensor | None = None
    step: int | None = None
    levels: Levels | SamplingError | None = None

    def begin(self, latents: Tensor) -> Tensor:
        self.after = latents if self.given is None else self.given
        return self.after

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if self.levels is None:
            self.levels = levels_or_error(pipeline.scheduler)
        self.before, self.after, self.step = self.after, tensors["latents"], step
        changed = self.callback(pipeline, step, timestep, tensors) if self.callback else {}
        self.after = changed.get("latents", self.after)
        if self.advance is not None:
            self.advance(self.count)
        if self.last is not None and step >= self.last:
            pipeline._interrupt = True
        return changed

    def clean(self) -> Tensor | None:
        if self.last is None or self.step is None or self.before is None or self.after is None:
            return None
        if not isinstance(self.levels, Levels):
            raise self.levels or SamplingError("no step was taken, so nothing can be predicted")
        return self.levels.split(self.step, self.before, self.after)[0]


def watched(stack: ExitStack, pipeline: Any, callback: Callback) -> dict[str, Any]:
    """The options by which a pipeline calls after every step; or a scheduler that does so in its place (PixArt)."""
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
        return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents"]}

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        count = 0

        @wraps(original)
        def step(output: Any, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            found = original(output, timestep, sample, *args, **kwargs)
            pipeline._interrupt = False
            changed = callback(pipeline, count, timestep, {"latents": found[0]})
            count += 1
            if pipeline._interrupt:
                raise Stop
            return (changed.get("latents", found[0]), *found[1:])

        return step

    stack.enter_context(replaced(pipeline.scheduler, "step", make))
    return {}


@contextmanager
def barless(pipeline: Any) -> Iterator[None]:
    """Turn a pipeline's own progress bar off: of a search's many short runs each would leave one."""
    name = "_progress_bar_config"
    before = getattr(pipeline, name, None)
    setattr(pipeline, name, {**(before or {}), "disable": True})
    try:
        yield
    finally:
        if before is None:
            delattr(pipeline, name)
        else:
            setattr(pipeline, name, before)


@contextmanager
def late(scheduler: Any, begin: int) -> Iterator[None]:
    """Have the scheduler leave out its first steps."""
    if begin == 0:
        yield
        return
    if hasattr(scheduler, "prk_timesteps"):
        raise SamplingError(
            f"{type(scheduler).__name__} cannot begin half-way; use a DDIM, Euler or DPM-Solver scheduler"
        )

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            original(*args, **kwargs)
            if begin >= len(scheduler.timesteps):
                raise SamplingError(f"there is no step {begin}; the way has {len(scheduler.timesteps)}")
            scheduler.timesteps = scheduler.timesteps[begin:]
            if getattr(scheduler, "sigmas", None) is not None:
                scheduler.sigmas = scheduler.sigmas[begin:]

        return set_timesteps

    with replaced(scheduler, "set_timesteps", make):
        yield


@contextmanager
def watching_denoisers(pipeline: Any, look: Callable[[int], None]) -> Iterator[None]:
    """Call `look` with the number of latents before a denoiser is evaluated on them."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        look(next(len(value) for value in (*args, *kwargs.values()) if getattr(value, "ndim", 0)))

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            hook(None, args, kwargs)
            return original(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for part in (getattr(pipeline, name, None) for name in _DENOISERS):
            if getattr(part, "_compiled_call_impl", None) is not None:
                # A hook would be compiled too, and break the graph.
                stack.enter_context(replaced(part, "_compiled_call_impl", make))
            elif part is not None:
                stack.callback(part.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    own, original = name in vars(owner), getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def free(pipeline: Any) -> None:
    """What a pipeline that offloads to the CPU does at the end of its call."""
    if hasattr(pipeline, "maybe_free_model_hooks"):
        pipeline.maybe_free_model_hooks()


def levels_or_error(scheduler: Any) -> Levels | SamplingError:
    """The levels of a scheduler, or why there are none: not everybody needs them."""
    try:
        return levels_of(scheduler)
    except SamplingError as error:
        return error
