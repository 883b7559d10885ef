"""One face for all methods: a pipeline, a judge and a method make one thing that is called with a prompt."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ..ranking import Judge, Ranking
from ..rewards.errors import Cancelled, PromptTextError
from ..rewards.instructions import DEFAULT_INSTRUCTION, DEFAULT_VIDEO_INSTRUCTION, Instruction, get_instruction
from ..rewards.videos import RATE
from .decoding import family_of, is_known
from .levels import SamplingError
from .painting import Painter
from .search import Found, RandomSearch
from .session import Session, check_on_failure
from .trace import Trace

Method = Callable[[Session], Found]
"""Searches with a session, and returns the finished pictures and their order."""

_OURS: Final = {
    "generator": "seed",
    "latents": "seed",
    "num_images_per_prompt": "the method's own number",
    "num_videos_per_prompt": "the method's own number",
    "callback_on_step_end": "Steering or Ascent with a pipeline of your own",
    "output_type": "the result's PIL pictures",
    "prompt_embeds": "the prompt as text, which the judge needs too",
}
"""Options of a pipeline that are set here, and what to use in their place."""


@dataclass(frozen=True)
class Guided:
    """What came of a search.

    Attributes:
        images: the finished pictures; of video pipelines, videos as lists of frames.
        ranking: their order by the judge. Where it failed at the end, and the search was to be finished all the same,
            rewards are NaN and the order is that of the pictures.
        trace: everything that was looked at.
        evaluations: how often the denoiser was evaluated on one latent. A step with classifier-free guidance evaluates
            it twice, and counts as two.
        judgements: how many verdicts the judge gave.
        gradients: how often the gradient of a verdict was taken.
        network_gradients: how many of the evaluations a gradient went back through; it costs about twice as much again.
    """

    images: tuple[Any, ...]
    ranking: Ranking
    trace: Trace
    evaluations: int
    judgements: int
    gradients: int
    network_gradients: int

    @property
    def best(self) -> Any:
        """The winner."""
        return self.images[self.ranking.best]

    @property
    def ranked(self) -> list[Any]:
        """All finished pictures, best first."""
        return [self.images[index] for index in self.ranking.order]


class RewardGuidedPipeline:
    """A pipeline of diffusers that spends more compute on a prompt, where a judge finds it well spent.

    Example:
        >>> guided = RewardGuidedPipeline(pipeline, RewardModel.default(), Drafts(24, keep=2))
        >>> guided("a photo of a star and a circle", instruction="alignment").best
    """

    def __init__(
        self,
        pipeline: Any,
        reward_model: Judge,
        method: Method = RandomSearch(),
        on_failure: str = "stop",
        batch_size: int = 8,
    ) -> None:
        """Put the three together; nothing runs yet.

        Args:
            pipeline: a text-to-image, text-to-video or image-to-video pipeline. Where its latents are not known
                (:data:`~diffusers_ext.sampling.FAMILIES`) only :class:`RandomSearch` works.
            reward_model: the judge.
            method: how to search, e.g. ``FeynmanKac(particles=8)``.
            on_failure: when the judge raises or gives no number: "stop" with an error, or "finish" with a warning and
                without its guidance.
            batch_size: the most pictures in one run of the pipeline; methods that compare particles on the way run all
                of them together.

        Raises:
            SamplingError: a batch below one, or another word for `on_failure`.
        """
        check_on_failure(on_failure)
        if batch_size < 1:
            raise SamplingError(f"the batch size must be at least one, not {batch_size}")
        self.pipeline = pipeline
        self.reward_model = reward_model
        self.method = method
        self.on_failure = on_failure
        self.batch_size = batch_size

    def __call__(
        self,
        prompt: str,
        instruction: str | Instruction | None = None,
        seed: int = 0,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
        fps: float | None = None,
        **pipeline_options: Any,
    ) -> Guided:
        """Search.

        Sample i starts from the noise that candidate i of :func:`~diffusers_ext.ranking.best_of_n` is made from, and
        the same seed gives the same result.

        Args:
            prompt: what to paint, and what to judge by.
            instruction: by which criteria; by default overall, of pictures or of videos.
            seed: of the first sample.
            progress: show progress on stderr.
            cancel: asked after every denoising step; once it returns true, :class:`Cancelled` is raised.
            fps: how many frames of a video go by in a second, as the judge is told; by default what the pipeline is
                told or takes itself (the `frame_rate` of LTX-Video), or 8 where it knows of no such thing.
            **pipeline_options: handed on to the pipeline, e.g. `num_inference_steps`, or `image` to begin a video with.

        Raises:
            SamplingError: a pipeline or scheduler that the method cannot work with, an option that is set here, too
                few steps, a rate that is not above zero, latents that are no numbers, or a judge that gives none
                (with ``on_failure="stop"``).
            PromptTextError: an empty prompt.
            InstructionError: no such instruction.
            Cancelled: the caller asked to stop.
        """
        if not prompt.strip():
            raise PromptTextError("the prompt is empty; say what to paint")
        for name in pipeline_options:
            if name in _OURS:
                raise SamplingError(f"{name} is set by the search; use {_OURS[name]} in its place")
        moving = is_known(self.pipeline) and family_of(self.pipeline).moving
        by = get_instruction(instruction or (DEFAULT_VIDEO_INSTRUCTION if moving else DEFAULT_INSTRUCTION))
        options = {**pipeline_options, "output_type": "pil"} if is_known(self.pipeline) else pipeline_options
        painter = Painter(self.pipeline, prompt, options, self.batch_size)
        rate = _rate(self.pipeline, options) if fps is None else fps
        if not rate > 0:
            raise SamplingError(f"fps must be above zero, not {rate}")
        session = Session(painter, self.reward_model, by, seed, self.on_failure, rate)
        with _watched(session, progress, cancel):
            images, ranking = self.method(session)
        return Guided(
            tuple(images),
            ranking,
            Trace(tuple(session.nodes)),
            painter.evaluations,
            session.asked,
            session.gradients,
            session.network_gradients,
        )


def _rate(pipeline: Any, options: Mapping[str, Any]) -> float:
    """The frames per second that a pipeline of videos paints for, as far as it says."""
    parameter = inspect.signature(pipeline.__call__).parameters.get("frame_rate")
    return options.get("frame_rate", RATE if parameter is None else parameter.default)


@contextmanager
def _watched(session: Session, progress: bool, cancel: Callable[[], bool] | None) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("painting")

        def advance(count: int) -> None:
            if cancel is not None and cancel():
                raise Cancelled(f"stopped as asked, after {session.painter.evaluations} network evaluations")
            rewards = [node.reward for node in session.nodes if node.reward == node.reward]
            best = f", best so far {max(rewards):.1f}" if rewards else ""
            bar.update(task, description=f"{session.painter.evaluations} evaluations, {session.asked} judged{best}")

        session.painter.advance = advance
        yield
