"""A block and a guider for Modular Diffusers.

Importing this file imports diffusers; nothing else in the package needs it. Modular Diffusers is experimental, and its
interfaces may still change.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.guiders.guider_utils import GuiderOutput
from diffusers.modular_pipelines import LoopSequentialPipelineBlocks, ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam, OutputParam
from torch import Tensor

from .guidance import climbed
from .intervening import Callback
from .levels import SamplingError


class StepEnd(ModularPipelineBlocks):
    """Calls a `callback_on_step_end`, such as Steering or Ascent, at the end of every turn of a denoising loop."""

    def __init__(self, callback: Callback) -> None:
        super().__init__()
        self.callback = callback

    def __deepcopy__(self, memo: dict[int, Any]) -> StepEnd:
        # Pipelines copy their blocks, and what a callback has seen is to be read by whoever made it.
        return StepEnd(self.callback)

    @property
    def description(self) -> str:
        return "Step within the denoising loop that lets a judge steer the latents."

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True, type_hint=Tensor)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("latents", type_hint=Tensor)]

    def __call__(self, components: Any, block_state: Any, i: int, t: Tensor) -> tuple[Any, Any]:
        changed = self.callback(components, i, t, {"latents": block_state.latents})
        block_state.latents = changed.get("latents", block_state.latents)
        return components, block_state


def with_callback(blocks: Any, callback: Callback) -> Any:
    """A copy of blocks with a :class:`StepEnd` at the end of every denoising loop among them, however deep.

    Args:
        blocks: blocks of any pipeline, e.g. ``StableDiffusion3AutoBlocks()``.
        callback: called with the pipeline's components, the step, the timestep and ``{"latents": ...}``.

    Raises:
        SamplingError: there is no denoising loop.
    """
    copied = deepcopy(blocks)  # diffusers shares blocks among pipelines
    if not _put(copied, callback):
        raise SamplingError(f"there is no denoising loop in {type(blocks).__name__}")
    return copied


def _put(blocks: Any, callback: Callback) -> int:
    parts = getattr(blocks, "sub_blocks", {})
    if isinstance(blocks, LoopSequentialPipelineBlocks):
        parts["step_end"] = StepEnd(callback)
        return 1
    return sum(_put(part, callback) for part in list(parts.values()))


class RewardGuidance(ClassifierFreeGuidance):
    """Universal guidance (Bansal et al. 2023, arXiv 2302.07121) on top of classifier-free guidance.

    For flow-matching models. The predicted clean latents ``x0 = x - sigma * v`` climb the reward, and the velocity is
    set to what leads to them from where x is: ``v - change / sigma``. This is what the paper does, at a fixed x; it
    pushes less per look than :class:`~diffusers_ext.sampling.Ascent`, which keeps the noise fixed.

    Args:
        reward: takes clean latents [B, ...], gives rewards [B], differentiable. It is not saved with the guider, and
            without one this is classifier-free guidance.
        length: root mean square of what a climb adds to x0, whose own is about one.
        climbs: climbing steps at each denoising step.
        climb_start, climb_stop: shares of the steps between which to climb.
        timesteps: how many timesteps there are from sigma 0 to 1.
        **options: those of classifier-free guidance, e.g. `guidance_scale`.
    """

    def __init__(
        self,
        reward: Callable[[Tensor], Tensor] | None = None,
        length: float = 0.05,
        climbs: int = 1,
        climb_start: float = 0.3,
        climb_stop: float = 0.8,
        timesteps: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.reward = reward
        self.length = length
        self.climbs = climbs
        self.climb_start = climb_start
        self.climb_stop = climb_stop
        self.timesteps = timesteps
        self._latents: Tensor | None = None

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        shown = data.get("hidden_states")
        self._latents = shown[0] if isinstance(shown, tuple) else shown
        return super().prepare_inputs(data)

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor | None = None) -> GuiderOutput:
        found = super().forward(pred_cond, pred_uncond)
        share = self._step / self._num_inference_steps
        if self.reward is None or self._latents is None or not self.climb_start <= share < self.climb_stop:
            return found
        sigma = float(torch.as_tensor(self._timestep).flatten()[0]) / self.timesteps
        clean = (self._latents.float() - sigma * found.pred.float()).to(self._latents.dtype)
        better, _ = climbed(self.reward, clean, self.length, self.climbs)
        found.pred = found.pred - ((better - clean) / sigma).to(found.pred.dtype)
        return found
