"""The reward of a run: one judge or several, each alone or against a reference, weighted and added."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..configuring import settle
from ..hushing import hushed
from ..rewards.addresses import connected, is_address
from ..rewards.errors import ModelError
from ..rewards.images import as_images
from ..rewards.instructions import DEFAULT_INSTRUCTION, Instruction
from ..rewards.videos import RATE, Clip
from .errors import JudgeGoneError, LoraTrainingError

Scale = Literal["log_odds", "probability", "log_probability"]


@dataclass(frozen=True)
class JudgeConfig:
    """One judge of a run.

    Attributes:
        model: folder, hub id, or URL of one that is served elsewhere; None for the nano one.
        instruction: name of what it judges by, of the package's or of the run's own.
        weight: of its reward in the sum; below zero for what is to fall.
        reference: ``none`` judges pictures alone; ``base`` and ``current`` hold them against the best of several by the
            generator before training, or as it is now (see `references`).
        scale: what is made of log P(yes) - log P(no): as it is, P(yes), or log P(yes), which stops to reward a picture
            that is good beyond doubt.
        explain: have it write a chain of thought before its verdict, which takes far longer and gives no gradient.
        quantization: scheme to hold its weights in; see docs/quantization.md.
        device: where it runs; None for where the generator is.
        patience: seconds to wait for a server that does not answer.
    """

    model: str | None = None
    instruction: str = DEFAULT_INSTRUCTION
    weight: float = 1.0
    reference: Literal["none", "base", "current"] = "none"
    scale: Scale = "log_odds"
    explain: bool = False
    quantization: str | None = None
    device: str | None = None
    patience: float = 600.0

    def __post_init__(self) -> None:
        settle(self, LoraTrainingError)
        if not math.isfinite(self.weight) or self.weight == 0:
            raise LoraTrainingError(f"weight: must be a number other than 0, not {self.weight}; or leave the judge out")


def scaled(log_odds: Tensor, scale: Scale) -> Tensor:
    """Log-odds on a scale, differentiable."""
    if scale == "probability":
        return log_odds.sigmoid()
    return F.logsigmoid(log_odds) if scale == "log_probability" else log_odds


@dataclass(frozen=True)
class Judge:
    """A loaded judge, with how it is asked.

    Attributes:
        config: what the run says of it.
        model: what answers.
        by: what it judges by; by name where only a server may know that.
        fps: of videos, in frames per second.
    """

    config: JudgeConfig
    model: Any
    by: str | Instruction
    fps: float = RATE

    @property
    def compares(self) -> bool:
        return self.config.reference != "none"

    @property
    def sees_first_frames(self) -> bool:
        """Whether it is shown the picture that a video was to begin with, if there is one."""
        return isinstance(self.by, str) or self.by.task == "i2v"

    @property
    def remote(self) -> bool:
        """Whether it runs elsewhere, where no gradient comes from and a connection may break."""
        return not hasattr(self.model, "log_odds")

    def reward(
        self,
        images: Tensor,
        prompts: Sequence[str],
        references: Any = None,
        first_frames: Sequence[Image.Image] | None = None,
    ) -> Tensor:
        """Rewards of pictures [B, 3, H, W] (or videos [B, F, 3, H, W]) in [0, 1], float32 [B] on the CPU.

        With `references`, one for each, of pairs; without, of each alone. `first_frames` [B] are what videos were to
        begin with.

        Raises:
            JudgeGoneError: a server that has not answered for long.
        """
        shown = images.detach().float().clamp(0, 1).cpu()
        asked: dict[str, Any] = {"instruction": self.by, "explain": self.config.explain}

        def ask() -> Any:
            if references is not None:
                return self.model.compare(shown, references, list(prompts), **asked)
            if shown.ndim == 4:
                return self.model.score(shown, list(prompts), **asked)
            clips = [Clip(tuple(as_images(video)), self.fps) for video in shown]
            return self.model.score_video(clips, list(prompts), **self._beginning(first_frames), **asked)

        found = _patiently(ask, self.config.patience if self.remote else 0.0)
        return scaled(torch.tensor([item.log_odds for item in found]), self.config.scale)

    def gradient_reward(
        self,
        images: Tensor,
        prompts: Sequence[str],
        references: Any = None,
        first_frames: Sequence[Image.Image] | None = None,
        checkpointing: bool = True,
    ) -> Tensor:
        """The same with gradient in the pixels, on the judge's device; `checkpointing` saves memory and costs time."""
        asked: dict[str, Any] = {"instruction": self.by, "checkpointing": checkpointing}
        if images.ndim == 4:
            found = self.model.log_odds(images, list(prompts), references, **asked)
        else:
            beginning = self._beginning(first_frames)
            found = self.model.video_log_odds(images, list(prompts), fps=self.fps, **beginning, **asked)
        return scaled(found, self.config.scale)

    def _beginning(self, first_frames: Sequence[Image.Image] | None) -> dict[str, Any]:
        if first_frames is None or not self.sees_first_frames:
            return {}
        return {"first_frame": list(first_frames)}


def load_judge(config: JudgeConfig, device: torch.device, by: str | Instruction, fps: float = RATE) -> Judge:
    """Load a judge, or connect to it; see :class:`Judge`.

    Raises:
        ModelError: it cannot be loaded.
    """
    if config.model is not None and is_address(config.model):
        return Judge(config, connected(config.model), by, fps)
    from ..nano import DEFAULT_REWARD_MODEL
    from ..rewards.model import RewardModel

    with nullcontext() if config.model else hushed():
        model = RewardModel.from_pretrained(
            config.model or DEFAULT_REWARD_MODEL,
            quantization=config.quantization,  # type: ignore[arg-type]
            device=config.device or device,
        )
    return Judge(config, model, by, fps)


def _patiently(ask: Callable[[], Any], patience: float) -> Any:
    """Ask again, at growing intervals, while a server does not answer.

    Raises:
        JudgeGoneError: it has not answered within `patience` seconds.
    """
    deadline, pause = time.monotonic() + patience, 1.0
    while True:
        try:
            return ask()
        except ModelError as error:
            if patience == 0:
                raise
            if time.monotonic() + pause > deadline:
                raise JudgeGoneError(
                    f"a judge has not answered for {patience:g} seconds ({error}). The run is saved; see to the server "
                    "and give the same command again"
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, 30.0)
