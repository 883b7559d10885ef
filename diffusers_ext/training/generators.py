"""A pipeline of diffusers as training sees it: prompts to conditions, latents to predictions, latents to pictures.

Families differ in what their denoiser is called with; the table at the end of this file says it for each. What they
predict, their scheduler says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..sampling.decoding import Canvas, pixels
from ..sampling.levels import levels_of
from .diffusion import Level, PredictionKind, Schedule
from .errors import LoraTrainingError

Condition = dict[str, Tensor]
"""What a prompt becomes for the denoiser, every tensor [B, ...]."""


@dataclass(frozen=True)
class Calling:
    """How the denoisers of a family are called.

    Attributes:
        encode: pipeline and prompts to a condition.
        shape: pipeline and canvas to the shape of one latent, packed where the family packs.
        call: generator, denoiser, latents, timestep [B] and condition to the denoiser's output.
        denoiser: the pipeline's name for it.
        begin: pipeline, the picture that a video begins with, canvas and device to what the condition gains by it;
            None for families that begin with none.
        moving: whether it makes videos.
        even: whether the pipeline spaces its noise levels evenly itself before the scheduler shifts them.
    """

    encode: Callable[[Any, list[str], dict[str, Any]], Condition]
    shape: Callable[[Any, Canvas], tuple[int, ...]]
    call: Callable[[Generator, nn.Module, Tensor, Tensor, Condition], Tensor]
    denoiser: str = "transformer"
    begin: Callable[[Any, Image.Image, Canvas, torch.device], Condition] | None = None
    moving: bool = False
    even: bool = False


@dataclass
class Generator:
    """A pipeline, the canvas it paints on, and how its denoiser is called.

    Attributes:
        pipeline: a pipeline of diffusers.
        canvas: what is painted on.
        encoding: options for the pipeline's `encode_prompt`, e.g. ``max_sequence_length`` or ``device``.
        guidance: of models that take it as an input (FLUX); no prediction is made twice.
    """

    pipeline: Any
    canvas: Canvas
    encoding: dict[str, Any] = field(default_factory=dict)
    guidance: float = 3.5

    def __post_init__(self) -> None:
        self.calling = calling_of(self.pipeline)
        if self.pipeline.config.get("boundary_ratio") is not None:
            raise LoraTrainingError(
                "pipeline: it has two denoisers, one for high noise and one for low (Wan 2.2 A14B), and a LoRA here is "
                "of one; take Wan 2.1, or Wan 2.2 5B"
            )
        self.denoiser: Any = getattr(self.pipeline, self.calling.denoiser)
        self._scheduler = _deterministic(self.pipeline.scheduler)
        config = self._scheduler.config
        self.flows = "FlowMatch" in type(self._scheduler).__name__ or config.get("use_flow_sigmas", False)
        kind = "flow" if self.flows else config.get("prediction_type", "epsilon")
        self.predicts = cast(PredictionKind, kind)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent, as the denoiser takes it."""
        return self.calling.shape(self.pipeline, self.canvas)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], batch_size: int = 32) -> Condition:
        """Conditions of prompts on the CPU; shorter ones are filled up with zeros, which masks leave out."""
        parts: list[Condition] = []
        for start in range(0, len(prompts), batch_size):
            found = self.calling.encode(self.pipeline, list(prompts[start : start + batch_size]), self.encoding)
            parts.append({name: value.cpu() for name, value in found.items()})
        return {name: _stacked([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def begin(self, pictures: Iterable[Image.Image], device: torch.device) -> Condition:
        """What conditions gain by the pictures that videos begin with, [P, ...] each on the CPU."""
        assert self.calling.begin is not None
        parts = [self.calling.begin(self.pipeline, picture, self.canvas, device) for picture in pictures]
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

    def output(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output for latents [B, ...] at timesteps [B], float32."""
        return self.calling.call(self, denoiser, latents, timestep, condition).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] or videos [B, F, 3, H, W] in [0, 1], float32, differentiable in the latents."""
        return pixels(self.pipeline, latents, self.canvas)

    def schedule(self, steps: int) -> Schedule:
        """The way of a sampler of so many steps, as the pipeline's scheduler spaces them."""
        scheduler = copy.deepcopy(self._scheduler)
        options: dict[str, Any] = {"num_inference_steps": steps}
        if self.calling.even:
            options = {"sigmas": np.linspace(1.0, 1 / steps, steps)}
        if scheduler.config.get("use_dynamic_shifting", False):
            options["mu"] = self._shift(scheduler.config)
        scheduler.set_timesteps(**options)
        levels = levels_of(scheduler)
        values = (scheduler.timesteps.float().cpu(), torch.tensor(levels.signal), torch.tensor(levels.noise))
        if len(values[0]) != steps:
            raise LoraTrainingError(f"sampling_steps: {type(scheduler).__name__} makes {len(values[0])} of {steps}")
        return Schedule(*(value.float() for value in values))

    def level(self, uniform: Tensor) -> Level:
        """Noise levels of uniform numbers [B] in [0, 1), spread as the scheduler spreads its timesteps."""
        config = self._scheduler.config
        if not self.flows:
            index = (uniform * config.num_train_timesteps).long().clamp_max(config.num_train_timesteps - 1)
            left = self._scheduler.alphas_cumprod.to(uniform.device)[index]
            return Level(index.float(), left.sqrt(), (1 - left).sqrt())
        # A level of exactly 0 has nothing to learn, and 1 no picture in it.
        base = uniform * 0.998 + 0.001
        if config.get("use_dynamic_shifting", False):
            shift = float(torch.tensor(self._shift(config)).exp())
        else:
            shift = config.get("shift", None) or config.get("flow_shift", None) or 1.0
        noise = shift * base / (1 + (shift - 1) * base)
        return Level(1000 * noise, 1 - noise, noise)

    def _shift(self, config: Any) -> float:
        """Long sequences want more noise (SD3, arXiv 2403.03206); as the pipelines of diffusers compute it."""
        shape, patch = self.shape, getattr(self.denoiser.config, "patch_size", 1)
        tokens = shape[0] if len(shape) == 2 else shape[-1] * shape[-2] // patch**2
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return least + (most - least) * (tokens - low) / (high - low)

    def forget_encoders(self) -> None:
        """Free what only prompts and first frames need; all of them are encoded by now."""
        for name in list(self.pipeline.components):
            if name.startswith(("text_encoder", "image_encoder")):
                setattr(self.pipeline, name, None)


def calling_of(pipeline: Any) -> Calling:
    """How the denoiser of a pipeline is called, by the name of its class or of one it derives from.

    Raises:
        LoraTrainingError: it is not known here.
    """
    for kind in type(pipeline).__mro__:
        if kind.__name__ in CALLINGS:
            return CALLINGS[kind.__name__]
    raise LoraTrainingError(
        f"pipeline: how the denoiser of {type(pipeline).__name__} is called is not known; it is known of "
        f"{', '.join(CALLINGS)}. A Calling of your own can be put into diffusers_ext.training.generators.CALLINGS"
    )


def canvas_for(pipeline: Any, height: int | None, width: int | None, frames: int) -> Canvas:
    """The canvas of a size; where none is given, the pipeline's own.

    Raises:
        LoraTrainingError: the family has no latents of that size.
    """
    calling = calling_of(pipeline)
    sample = getattr(getattr(pipeline, calling.denoiser).config, "sample_size", None)
    scale = getattr(pipeline, "vae_scale_factor", getattr(pipeline, "vae_scale_factor_spatial", 8))
    own = getattr(pipeline, "default_sample_size", None) or (sample if isinstance(sample, int) else None) or 64
    canvas = Canvas(height or own * scale, width or own * scale, frames)
    family = type(pipeline).__name__
    unit = scale if calling.denoiser == "unet" else 2 * scale  # transformers take latents in patches of two by two
    for name, size in (("height", canvas.height), ("width", canvas.width)):
        if size < unit or size % unit:
            nearest = max(1, round(size / unit)) * unit
            raise LoraTrainingError(f"{name}: {family} paints in multiples of {unit}, not {size}; take {nearest}")
    if calling.moving and (frames - 1) % pipeline.vae_scale_factor_temporal:
        step = pipeline.vae_scale_factor_temporal
        fewer = frames - (frames - 1) % step
        raise LoraTrainingError(
            f"frames: {family} makes one more than a multiple of {step}, not {frames}; take {fewer}"
        )
    return canvas


def _deterministic(scheduler: Any) -> Any:
    """A copy of a scheduler whose steps can be taken one by one: DDIM in place of those that are not for flows."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    config = dict(scheduler.config)
    if "FlowMatch" in type(scheduler).__name__:
        return copy.deepcopy(scheduler)
    if config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler(shift=config.get("flow_shift") or 1.0)
    return DDIMScheduler.from_config(config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)


def _stacked(values: list[Tensor]) -> Tensor:
    longest = max(value.shape[1] for value in values) if values[0].ndim > 1 else 0
    if longest:
        values = [
            torch.cat([value, value.new_zeros(len(value), longest - value.shape[1], *value.shape[2:])], 1)
            for value in values
        ]
    return torch.cat(values)


def _scaled(pipeline: Any, canvas: Canvas) -> tuple[int, int]:
    return canvas.height // pipeline.vae_scale_factor, canvas.width // pipeline.vae_scale_factor


def _grid(pipeline: Any, canvas: Canvas) -> tuple[int, ...]:
    return (getattr(pipeline, "transformer", None) or pipeline.unet).config.in_channels, *_scaled(pipeline, canvas)


def _packed(pipeline: Any, canvas: Canvas) -> tuple[int, ...]:
    height, width = _scaled(pipeline, canvas)
    return (height // 2) * (width // 2), pipeline.transformer.config.in_channels


def _moving(pipeline: Any, canvas: Canvas) -> tuple[int, ...]:
    scale = pipeline.vae_scale_factor_spatial
    frames = (canvas.frames - 1) // pipeline.vae_scale_factor_temporal + 1
    return pipeline.vae.config.z_dim, frames, canvas.height // scale, canvas.width // scale


def _encode_sd3(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    found = pipeline.encode_prompt(prompts, None, None, do_classifier_free_guidance=False, **options)
    return {"words": found[0], "pooled": found[2]}


def _call_sd3(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    return denoiser(
        hidden_states=x,
        timestep=timestep,
        encoder_hidden_states=condition["words"],
        pooled_projections=condition["pooled"],
        return_dict=False,
    )[0]


def _encode_sd(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    own = {"device": pipeline._execution_device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    return {"words": pipeline.encode_prompt(prompts, **(own | options))[0]}


def _call_sd(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    return denoiser(x, timestep, encoder_hidden_states=condition["words"], return_dict=False)[0]


def _encode_sdxl(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    found = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, **options)
    return {"words": found[0], "pooled": found[2]}


def _call_sdxl(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    size = x.new_tensor([by.canvas.height, by.canvas.width, 0, 0, by.canvas.height, by.canvas.width]).expand(len(x), 6)
    added = {"text_embeds": condition["pooled"], "time_ids": size}
    return denoiser(x, timestep, encoder_hidden_states=condition["words"], added_cond_kwargs=added, return_dict=False)[
        0
    ]


def _encode_flux(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    words, pooled, _ = pipeline.encode_prompt(prompts, None, **options)
    return {"words": words, "pooled": pooled}


def _call_flux(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    height, width = (size // 2 for size in _scaled(by.pipeline, by.canvas))
    words = condition["words"]
    embedded = x.new_full((len(x),), by.guidance) if by.pipeline.transformer.config.guidance_embeds else None
    return denoiser(
        hidden_states=x,
        timestep=timestep / 1000,
        guidance=embedded,
        pooled_projections=condition["pooled"],
        encoder_hidden_states=words,
        txt_ids=x.new_zeros(words.shape[1], 3),
        img_ids=by.pipeline._prepare_latent_image_ids(len(x), height, width, x.device, x.dtype),
        return_dict=False,
    )[0]


def _encode_qwen(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    words, mask = pipeline.encode_prompt(prompts, **options)
    return {"words": words, "mask": torch.ones(words.shape[:2], dtype=torch.long) if mask is None else mask.long()}


def _call_qwen(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    height, width = (size // 2 for size in _scaled(by.pipeline, by.canvas))
    return denoiser(
        hidden_states=x,
        timestep=timestep / 1000,
        guidance=None,
        encoder_hidden_states=condition["words"],
        encoder_hidden_states_mask=condition["mask"],
        img_shapes=[[(1, height, width)]] * len(x),
        return_dict=False,
    )[0]


def _encode_wan(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    return {"words": pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, **options)[0]}


def _call_wan(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    return denoiser(hidden_states=x, timestep=timestep, encoder_hidden_states=condition["words"], return_dict=False)[0]


def _encode_wan_to_begin(pipeline: Any, prompts: list[str], options: dict[str, Any]) -> Condition:
    if find_spec("ftfy") is None:
        raise LoraTrainingError(
            "diffusers' image-to-video pipeline of Wan needs ftfy: pip install 'rewarddance[video]'"
        )
    return _encode_wan(pipeline, prompts, options)


def _begin_wan(pipeline: Any, picture: Image.Image, canvas: Canvas, device: torch.device) -> Condition:
    shown = pipeline.video_processor.preprocess(picture, canvas.height, canvas.width).to(device, torch.float32)
    shape = _moving(pipeline, canvas)
    size = canvas.height, canvas.width, canvas.frames
    # Handing in latents keeps it from drawing some.
    found = pipeline.prepare_latents(
        shown, 1, shape[0], *size, torch.float32, device, latents=torch.zeros(1, *shape, device=device)
    )
    if pipeline.transformer.config.image_dim is None:
        return {"beginning": found[1]}
    return {"beginning": found[1], "seen": pipeline.encode_image(picture, device)}


def _call_wan_to_begin(by: Generator, denoiser: nn.Module, x: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
    given = condition["beginning"].to(x.dtype)
    common = {
        "encoder_hidden_states": condition["words"],
        "encoder_hidden_states_image": condition.get("seen"),
        "return_dict": False,
    }
    if not by.pipeline.config.expand_timesteps:
        return denoiser(hidden_states=torch.cat([x, given], 1), timestep=timestep, **common)[0]
    # Wan 2.2 5B is shown the first of the latents' frames as it will be, free of noise.
    frames, height, width = x.shape[2:]
    tokens = height * width // 4
    told = timestep[:, None].expand(-1, frames * tokens).clone()
    told[:, :tokens] = 0
    found = denoiser(hidden_states=torch.cat([given, x[:, :, 1:]], 2), timestep=told, **common)[0]
    straight = (x[:, :, :1] - given) / (timestep / 1000).reshape(-1, 1, 1, 1, 1).to(x.dtype)
    return torch.cat([straight.to(found.dtype), found[:, :, 1:]], 2)  # the way there, which nothing is to be learned of


CALLINGS: Final[dict[str, Calling]] = {
    "StableDiffusion3Pipeline": Calling(_encode_sd3, _grid, _call_sd3),
    "StableDiffusionPipeline": Calling(_encode_sd, _grid, _call_sd, denoiser="unet"),
    "StableDiffusionXLPipeline": Calling(_encode_sdxl, _grid, _call_sdxl, denoiser="unet"),
    "FluxPipeline": Calling(_encode_flux, _packed, _call_flux, even=True),
    "QwenImagePipeline": Calling(_encode_qwen, _packed, _call_qwen, even=True),
    "WanPipeline": Calling(_encode_wan, _moving, _call_wan, moving=True),
    "WanImageToVideoPipeline": Calling(
        _encode_wan_to_begin, _moving, _call_wan_to_begin, begin=_begin_wan, moving=True
    ),
}
"""Known pipelines, by the name of their class."""
