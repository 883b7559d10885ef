"""Reward-Guided Sampler."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from comfy import model_management
from comfy.model_sampling import CONST
from comfy.samplers import KSAMPLER
from comfy_api.latest import io
from tqdm.auto import trange

from diffusers_ext.rewards.instructions import Instruction
from diffusers_ext.rewards.videos import RATE
from diffusers_ext.sampling import SamplingError, Selection, Steering, beam, feynman_kac

from . import ports
from .judges import Held
from .looking import BY_DEFAULT, Look
from .pictures import optional_picture

if TYPE_CHECKING:
    from torch import Tensor

_BEAM: Final = "search over paths"
_FEYNMAN_KAC: Final = "Feynman-Kac"


class RewardGuidedSampler(io.ComfyNode):
    """Paints a batch as particles; hopeless ones make room for copies of promising ones on the way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceGuidedSampler",
            display_name="Reward-Guided Sampler",
            category=ports.CATEGORY,
            description="A sampler (Euler) for SamplerCustomAdvanced that paints a batch of pictures or videos as "
            "particles: on the way the judge looks at what each is about to become, and gives the places of the "
            "hopeless to copies of the promising. Pick from what comes out with Best of N.",
            inputs=[
                ports.reward_model(),
                io.Vae.Input("vae", tooltip="To look at pictures on the way; that of the model."),
                ports.prompt(),
                io.Combo.Input(
                    "method",
                    options=[_BEAM, _FEYNMAN_KAC],
                    default=_BEAM,
                    tooltip="Search over paths: the best go on, in as many copies as fit. Feynman-Kac: drawn in "
                    "proportion to exp(strength x log-odds), which keeps more variety.",
                ),
                io.Int.Input("width", default=4, min=1, max=4096, tooltip="Search over paths: how many go on."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=100.0, step=0.1, tooltip="Feynman-Kac: 0 changes nothing."
                ),
                ports.looks("0.3, 0.5, 0.7"),
                io.Float.Input(
                    "churn",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of a copy's noise is new: 0 makes copies the same picture.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True, tooltip="Of the new noise."
                ),
                ports.instruction(BY_DEFAULT),
                ports.fps(),
                ports.first_frame(),
            ],
            outputs=[io.Sampler.Output("sampler", display_name="SAMPLER", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        reward_model: Held,
        vae: Any,
        prompt: str,
        method: str,
        width: int,
        strength: float,
        looks: str,
        churn: float,
        seed: int,
        instruction: Instruction | None = None,
        fps: float = RATE,
        first_frame: Any = None,
    ) -> io.NodeOutput:
        select = beam(width) if method == _BEAM else feynman_kac(strength)
        begun = optional_picture(first_frame, "first_frame")
        look = Look(reward_model, vae, prompt, instruction, fps, begun)
        return io.NodeOutput(KSAMPLER(_sampling(look.rewards, select, ports.shares(looks), churn, seed)))


def _sampling(
    judge: Callable[[Tensor], np.ndarray], select: Selection, shares: list[float], churn: float, seed: int
) -> Callable[..., Tensor]:
    """Euler's method in the form of k-diffusion's samplers, with :class:`Steering` after each step."""

    def sample(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        total = len(sigmas) - 1
        if total < 3:
            raise SamplingError(f"steering takes at least three steps, not {total}")
        guider = model.inner_model
        network = guider.inner_model

        def look(clean: Tensor) -> np.ndarray:
            rewards = judge(network.process_latent_out(clean))
            model_management.load_models_gpu([guider.model_patcher])  # the judge may have taken its place
            return rewards

        flow = isinstance(network.model_sampling, CONST)
        scheduler = SimpleNamespace(config={"use_flow_sigmas": flow}, sigmas=sigmas.tolist())
        steps = sorted({min(max(1, round(share * total)), total - 2) for share in shares})
        steering = Steering(look, select, steps, churn, seed)
        for step in trange(total, disable=disable):
            denoised = model(x, sigmas[step] * x.new_ones(len(x)), **(extra_args or {}))
            if callback is not None:
                callback({"x": x, "i": step, "sigma": sigmas[step], "sigma_hat": sigmas[step], "denoised": denoised})
            x = denoised + (x - denoised) * (sigmas[step + 1] / sigmas[step])
            x = steering(SimpleNamespace(scheduler=scheduler), step, None, {"latents": x}).get("latents", x)
        return x

    return sample
