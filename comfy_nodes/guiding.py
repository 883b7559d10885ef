"""Reward Guider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Final

import torch
from comfy import model_management
from comfy.model_patcher import create_model_options_clone
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import io

from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.instructions import Instruction
from diffusers_ext.rewards.videos import RATE
from diffusers_ext.sampling.guidance import climbed
from diffusers_ext.sampling.shares import step_at

from . import ports
from .judges import Held
from .looking import BY_DEFAULT, Look
from .pictures import optional_picture

if TYPE_CHECKING:
    from torch import Tensor

_KEY: Final = "rewarddance"


class RewardGuider(io.ComfyNode):
    """Pushes pictures and videos towards a higher reward while they are painted, along its gradient."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceGuider",
            display_name="Reward Guider",
            category=ports.CATEGORY,
            description="A guider for SamplerCustomAdvanced that climbs the judge's gradient: on the way it decodes "
            "what each picture or video is about to become, and pushes it towards a higher reward. Works with any "
            "sampler.",
            inputs=[
                io.Guider.Input("guider", tooltip="What guides otherwise, such as CFGGuider or BasicGuider."),
                ports.reward_model(),
                io.Vae.Input("vae", tooltip="To look at pictures on the way; that of the model."),
                ports.prompt(),
                ports.looks("0.4, 0.6"),
                io.Float.Input(
                    "length",
                    default=0.1,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How far to push at each look, as the root mean square of what is added to the predicted "
                    "clean latent, whose own is about one. 0 changes nothing; too far leaves pictures that please "
                    "the judge alone.",
                ),
                io.Int.Input(
                    "climbs", default=1, min=1, max=64, tooltip="How many steps of that length to climb at each look."
                ),
                ports.instruction(BY_DEFAULT),
                ports.fps(),
                ports.first_frame(),
            ],
            outputs=[io.Guider.Output("guided", display_name="GUIDER", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        guider: Any,
        reward_model: Held,
        vae: Any,
        prompt: str,
        looks: str,
        length: float,
        climbs: int,
        instruction: Instruction | None = None,
        fps: float = RATE,
        first_frame: Any = None,
    ) -> io.NodeOutput:
        if reward_model.patcher is None:
            raise ModelError(
                "a judge on a server gives no gradient; load one here, or take Reward-Guided Sampler, which needs none"
            )
        begun = optional_picture(first_frame, "first_frame")
        look = Look(reward_model, vae, prompt, instruction, fps, begun)
        guided = copy(guider)
        guided.model_options = create_model_options_clone(guider.model_options)
        add_wrapper_with_key(
            WrappersMP.PREDICT_NOISE,
            _KEY,
            _Climbing(look.log_odds, ports.shares(looks), length, climbs),
            guided.model_options,
            is_model_options=True,
        )
        return io.NodeOutput(guided)


class _Climbing:
    """A wrapper of a guider's predictions: :class:`~diffusers_ext.sampling.Ascent`, whatever the sampler.

    A guider is asked for clean latents D and cannot set the latents x that the sampler holds. So what was climbed is
    kept as a change c of the noise in them, and the model is asked about ``x + sigma * c``. Solvers scale x by the
    ratio of two sigmas in every step, and with it what is missing in it, until nothing is at the end.
    """

    def __init__(self, reward: Callable[[Tensor], Tensor], shares: Sequence[float], length: float, climbs: int) -> None:
        self._reward, self._shares, self._length, self._climbs = reward, shares, length, climbs
        self._climbed: dict[int, Tensor] = {}

    def __call__(
        self, predict: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        total = len(sigmas) - 1
        steps = sorted({step_at(share, total) - 1 for share in self._shares})
        sigma = float(timestep.max())
        step = int((sigmas.to(timestep) - timestep.max()).abs().argmin())
        if step == 0:
            self._climbed.clear()  # another picture
        change = sum(self._climbed.values())
        denoised = predict(x + sigma * change, timestep, model_options, seed)
        if step in steps and step not in self._climbed and self._length > 0:
            guider, later = predict.class_obj, float(sigmas[step + 1])
            network = guider.inner_model

            def reward(clean: Tensor) -> Tensor:
                return self._reward(network.process_latent_out(clean))

            model_management.throw_exception_if_processing_interrupted()
            with torch.inference_mode(False):  # which nodes run in, and which knows no gradients
                better, _ = climbed(reward, denoised.clone(), self._length, self._climbs)
            signal = 1 - later if isinstance(network.model_sampling, CONST) else 1.0
            self._climbed[step] = signal / later * (better - denoised)
            model_management.load_models_gpu([guider.model_patcher])  # vae and judge may have taken its place
        return denoised
