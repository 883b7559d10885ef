"""One search for one prompt: a pipeline that paints, a judge that looks, and a record of both."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..ranking import Judge, Ranking
from ..rewards.errors import Cancelled
from ..rewards.images import as_images
from ..rewards.instructions import Instruction
from ..rewards.judgement import Judgement
from ..rewards.videos import RATE, Clip
from .decoding import pixels
from .levels import SamplingError
from .painting import Painter
from .trace import Node

if TYPE_CHECKING:
    from torch import Tensor

ON_FAILURE: Final = ("stop", "finish")
"""What to do when a judge raises or gives no number: stop with an error, or warn and finish without its guidance."""


def attempt(judge: Callable[[], Any], count: int, on_failure: str) -> np.ndarray:
    """Ask a judge; where it fails, stop, or warn and give NaN.

    Args:
        judge: gives `count` rewards.
        count: how many things it is asked about.
        on_failure: one of :data:`ON_FAILURE`.

    Returns:
        float64 [count].

    Raises:
        SamplingError: a reward that is not finite, with "stop".
    """
    try:
        rewards = np.asarray(judge(), dtype=np.float64).reshape(count)
    except (Cancelled, KeyboardInterrupt):
        raise
    except Exception as error:
        if on_failure == "stop":
            raise
        warnings.warn(f"the judge failed ({error}); going on without its guidance", stacklevel=3)
        return np.full(count, np.nan)
    if np.isfinite(rewards).all():
        return rewards
    if on_failure == "stop":
        raise SamplingError(f"the judge gave {rewards.tolist()}; rewards must be finite")
    warnings.warn(f"the judge gave {rewards.tolist()}; going on without what is no number", stacklevel=3)
    return np.where(np.isfinite(rewards), rewards, np.nan)


def check_on_failure(on_failure: str) -> None:
    """Refuse what is not one of :data:`ON_FAILURE`."""
    if on_failure not in ON_FAILURE:
        raise SamplingError(f"on_failure can be {' or '.join(map(repr, ON_FAILURE))}, not {on_failure!r}")


def best_first(rewards: np.ndarray) -> np.ndarray:
    """Places of rewards, highest first; of equals the earlier one, and what is no number last."""
    return np.argsort(-rewards, kind="stable")


@dataclass
class Session:
    """What a method searches with.

    Attributes:
        painter: runs the pipeline.
        judge: answers for the rewards.
        instruction: what to judge by.
        seed: of the first sample; all randomness follows from it.
        on_failure: see :data:`ON_FAILURE`.
        fps: frames per second that videos are painted for, as the judge is told.
        nodes: what was judged so far.
        gradients: how often the reward's gradient was taken for one picture.
        network_gradients: denoiser evaluations, out of `painter.evaluations`, that a gradient went back through.
    """

    painter: Painter
    judge: Judge
    instruction: Instruction
    seed: int = 0
    on_failure: str = "stop"
    fps: float = RATE
    nodes: list[Node] = field(default_factory=list)
    gradients: int = 0
    network_gradients: int = 0

    def seeds(self, count: int) -> list[int]:
        """The first seeds, one for each sample."""
        return list(range(self.seed, self.seed + count))

    def look(
        self, shown: Sequence[Any], stage: str, parents: Sequence[int | None] | None = None
    ) -> tuple[np.ndarray, list[int | None]]:
        """Judge pictures or videos half-way: log-odds float64 [B], and the numbers of their nodes."""
        rewards = attempt(lambda: [item.log_odds for item in self._asked(shown)], len(shown), self.on_failure)
        return rewards, self.note(rewards, stage, parents)

    def rank(self, shown: Sequence[Any], parents: Sequence[int | None] | None = None) -> Ranking:
        """Judge finished pictures or videos, and order them."""
        judgements: list[Judgement] = []

        def ask() -> list[float]:
            judgements.extend(self._asked(shown))
            return [item.log_odds for item in judgements]

        rewards = attempt(ask, len(shown), self.on_failure)
        self.note(rewards, "picture", parents, final=True)
        order = tuple(int(place) for place in best_first(rewards))
        return Ranking(order, tuple(rewards.tolist()), tuple(judgements), len(judgements), "pointwise")

    def differentiable(self, clean: Tensor) -> Tensor:
        """Log-odds [B] of clean latents [B, ...], differentiable in them."""
        assert self.painter.canvas is not None
        shown = pixels(self.painter.pipeline, clean, self.painter.canvas)
        name = "video_log_odds" if shown.ndim == 5 else "log_odds"
        log_odds = getattr(self.judge, name, None)
        if log_odds is None:
            raise SamplingError(
                f"{type(self.judge).__name__} has no {name}, so it gives no gradient; a RewardModel does"
            )
        self.gradients += len(clean)
        options = {**self._beginning(), "fps": self.fps} if shown.ndim == 5 else {}
        return log_odds(shown, self.painter.prompt, instruction=self.instruction, checkpointing=False, **options)

    def note(
        self, rewards: np.ndarray, stage: str, parents: Sequence[int | None] | None = None, final: bool = False
    ) -> list[int | None]:
        """Put what was judged into the trace: the numbers of the new nodes."""
        start, spent = len(self.nodes), self.painter.evaluations
        grown = [None] * len(rewards) if parents is None else parents
        for reward, parent in zip(rewards.tolist(), grown, strict=True):
            self.nodes.append(Node(len(self.nodes), parent, stage, reward, spent, final))
        return list(range(start, len(self.nodes)))

    @property
    def asked(self) -> int:
        """How many judgements were made."""
        return len(self.nodes)

    def _asked(self, shown: Sequence[Any]) -> list[Judgement]:
        if not isinstance(shown[0], (list, tuple, np.ndarray)):
            return self.judge.score(list(shown), self.painter.prompt, instruction=self.instruction)
        score_video = getattr(self.judge, "score_video", None)
        if score_video is None:
            raise SamplingError(f"{type(self.judge).__name__} judges pictures only; RewardModel judges videos too")
        return score_video(
            [Clip(tuple(as_images(video)), self.fps) for video in shown],
            self.painter.prompt,
            instruction=self.instruction,
            **self._beginning(),
        )

    def _beginning(self) -> dict[str, Any]:
        first = self.painter.options.get("image")
        return {} if first is None else {"first_frame": first}
