"""What a judge says of latents, which are those of pictures or of videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from comfy import model_management

from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION, DEFAULT_VIDEO_INSTRUCTION, Instruction

from .judges import Held
from .pictures import pictures

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

BY_DEFAULT: Final = f"{DEFAULT_INSTRUCTION}, or {DEFAULT_VIDEO_INSTRUCTION} of a video"
"""What is judged by without an instruction, in words."""


@dataclass(frozen=True)
class Look:
    """A judge, and all that it is shown and told beside the latents.

    Attributes:
        held: the judge.
        vae: decodes the latents.
        prompt: what they were to show.
        instruction: what to judge by; None for the usual one.
        fps: frames per second, of videos.
        first_frame: the picture that videos were to begin with, or None.
    """

    held: Held
    vae: Any
    prompt: str
    instruction: Instruction | None
    fps: float
    first_frame: Image.Image | None

    def rewards(self, latents: Tensor) -> np.ndarray:
        """Log-odds, float64 [B], of latents [B, C, H, W] or [B, C, T, H, W]."""
        from diffusers_ext.rewards.videos import Clip

        shown = _still(self.vae.decode(latents))
        judge = self.held.ready()
        if shown.ndim == 4:
            found = judge.score(pictures(shown), self.prompt, instruction=self.instruction or DEFAULT_INSTRUCTION)
        else:
            clips = [Clip(tuple(pictures(video)), self.fps) for video in shown]
            found = [judge.score_video(clip, self.prompt, **self._of_videos()) for clip in clips]
        return np.array([item.log_odds for item in found])

    def log_odds(self, latents: Tensor) -> Tensor:
        """The same, float32 [B], with a gradient; of a judge that is no server."""
        shown = _still(_decoded(self.vae, latents))
        self.held.ready()
        judge: Any = self.held.judge
        if shown.ndim == 4:
            return judge.log_odds(shown, self.prompt, instruction=self.instruction or DEFAULT_INSTRUCTION)
        return judge.video_log_odds(shown, self.prompt, fps=self.fps, **self._of_videos())

    def _of_videos(self) -> dict[str, Any]:
        return {"instruction": self.instruction or DEFAULT_VIDEO_INSTRUCTION, "first_frame": self.first_frame}


def _still(decoded: Tensor) -> Tensor:
    """What has one frame, without the axis of frames; autoencoders of videos decode pictures so."""
    return decoded[:, 0] if decoded.ndim == 5 and decoded.shape[1] == 1 else decoded


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] or videos [B, F, 3, H, W] in [0, 1] of latents, differentiable; clamped, but the gradient
    goes through where.
    """
    model_management.load_models_gpu([vae.patcher])
    decoding = _Decoding(vae.first_stage_model)
    # Nodes load models in inference mode; through weights made in it no gradient passes, through copies it does.
    weights = {name: value.clone() for name, value in decoding.state_dict().items()}
    raw = torch.func.functional_call(decoding, weights, (latents.to(vae.device, vae.vae_dtype),)).float()
    raw = raw.movedim(2, 1) if raw.ndim == 5 else raw
    at_zero, at_half = vae.process_output(raw.new_tensor([0.0, 0.5]))
    straight = at_zero + (at_half - at_zero) * 2 * raw
    return straight + (vae.process_output(raw) - straight).detach()


class _Decoding(torch.nn.Module):
    """An autoencoder whose call is its decoder."""

    def __init__(self, autoencoder: torch.nn.Module) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)
