"""Latents as pictures and videos, half-way through a pipeline as at its end.

Every family of pipelines packs and scales its latents in a way of its own; the table at the end of this file says how
each is undone. All of it is torch, so that a judge's gradient reaches the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .levels import SamplingError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """What is painted on.

    Attributes:
        height, width: of the picture that the latents stand for, in pixels.
        frames: of a video; 1 for a picture.
        crop: height and width of what the pipeline hands out, where it crops (Sana and PixArt paint in sizes of their
            own); None for all of it.
        decode_timestep: see LTX-Video's pipeline.
        given: latents [1, C, f, h, w] of the first f frames, where a pipeline puts them in place of those painted only
            at its end; else None.
    """

    height: int
    width: int
    frames: int = 1
    crop: tuple[int, int] | None = None
    decode_timestep: float = 0.0
    given: Tensor | None = field(default=None, compare=False)


Decoder = Callable[[Any, "Tensor", Canvas], "Tensor"]
"""Takes a pipeline, latents as it has them between steps, and the canvas. Gives pixels in [-1, 1]: [B, 3, H, W], or
[B, 3, F, H, W] of videos."""


@dataclass(frozen=True)
class Family:
    """How pipelines of a kind go from latents to pixels, and how they want the picture that a video begins with.

    Attributes:
        decoder: undoes what the pipeline does to its latents.
        moving: whether it makes videos.
        picture_each: whether it takes one first picture for every prompt of a batch, and not one for all.
        decoded_here: whether its last lines fail with a generator for each sample, so that latents are decoded here.
        given: pipeline, and what it prepares beside its latents, to :attr:`Canvas.given`.
    """

    decoder: Decoder
    moving: bool = False
    picture_each: bool = False
    decoded_here: bool = False
    given: Callable[[Any, tuple[Any, ...]], Tensor | None] = lambda pipeline, prepared: None


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline, by the name of its class or of one that it derives from.

    Raises:
        SamplingError: its latents are not known here.
    """
    for name in _names(pipeline):
        return FAMILIES[name]
    raise SamplingError(
        f"how {type(pipeline).__name__} makes pictures of its latents is not known, so they cannot be looked at "
        f"half-way; that is known of {', '.join(FAMILIES)}. RandomSearch (best-of-N) works with any pipeline, and a "
        "Family of your own can be put into diffusers_ext.sampling.FAMILIES"
    )


def is_known(pipeline: Any) -> bool:
    """Whether :func:`family_of` knows a pipeline."""
    return next(_names(pipeline), None) is not None


def _names(pipeline: Any) -> Iterator[str]:
    for kind in type(pipeline).__mro__:
        yield from (name for name in sorted(FAMILIES, key=len, reverse=True) if kind.__name__.startswith(name))


def raw_pixels(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    """What the pipeline's own last lines hand to its image processor, differentiable in the latents."""
    import torch

    if not torch.isfinite(latents).all():
        raise SamplingError(
            "the latents hold values that are no numbers; float16 may have overflowed: try bfloat16 or float32"
        )
    if canvas.given is not None:
        first = canvas.given.to(latents).expand(len(latents), *canvas.given.shape[1:])
        latents = torch.cat([first, latents[:, :, first.shape[2] :]], dim=2)
    pixels = family_of(pipeline).decoder(pipeline, latents, canvas)
    if canvas.crop is not None and canvas.crop != tuple(pixels.shape[-2:]):
        pixels = pipeline.image_processor.resize_and_crop_tensor(pixels, canvas.crop[1], canvas.crop[0])
    return pixels


def decode(pipeline: Any, latents: Tensor, canvas: Canvas) -> list[Image.Image] | list[list[Image.Image]]:
    """Pictures, or videos as lists of frames, one for each of B latents.

    Raises:
        SamplingError: a pipeline whose latents are not known here, or latents that are no numbers.
    """
    import torch

    with torch.no_grad():
        pixels = raw_pixels(pipeline, latents, canvas)
    if pixels.ndim == 5:
        return pipeline.video_processor.postprocess_video(pixels, output_type="pil")
    return pipeline.image_processor.postprocess(pixels, output_type="pil")


def pixels(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    """Pictures [B, 3, H, W] or videos [B, F, 3, H, W] in [0, 1], float32, differentiable in the latents.

    Values are clamped as at the end of a pipeline, but the gradient goes through where they are.
    """
    raw = raw_pixels(pipeline, latents, canvas).float() / 2 + 0.5
    clamped = raw + (raw.clamp(0, 1) - raw).detach()
    return clamped.transpose(1, 2) if clamped.ndim == 5 else clamped


def _still(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    config = pipeline.vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        scaled = latents * _channels(std, latents) / config.scaling_factor + _channels(mean, latents)
    else:
        scaled = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
    return _decoded(pipeline, scaled)


def _flux(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    unpacked = pipeline._unpack_latents(latents, canvas.height, canvas.width, pipeline.vae_scale_factor)
    return _still(pipeline, unpacked, canvas)


def _qwen(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    unpacked = pipeline._unpack_latents(latents, canvas.height, canvas.width, pipeline.vae_scale_factor)
    return _wan(pipeline, unpacked, canvas)[:, :, 0]


def _wan(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    config, typed = pipeline.vae.config, latents.to(pipeline.vae.dtype)
    inverse = 1.0 / _channels(config.latents_std, typed)  # rounded as the pipelines round it
    return _decoded(pipeline, typed / inverse + _channels(config.latents_mean, typed))


def _given_to_wan(pipeline: Any, prepared: tuple[Any, ...]) -> Tensor | None:
    # Wan 2.2 5B is shown the first frame free of noise, and steps on as if it were painted.
    return prepared[0][:1] if pipeline.config.expand_timesteps else None


def _ltx(pipeline: Any, latents: Tensor, canvas: Canvas) -> Tensor:
    vae = pipeline.vae
    unpacked = pipeline._unpack_latents(
        latents,
        (canvas.frames - 1) // pipeline.vae_temporal_compression_ratio + 1,
        canvas.height // pipeline.vae_spatial_compression_ratio,
        canvas.width // pipeline.vae_spatial_compression_ratio,
        pipeline.transformer_spatial_patch_size,
        pipeline.transformer_temporal_patch_size,
    )
    plain = pipeline._denormalize_latents(unpacked, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    if not vae.config.timestep_conditioning:
        return _decoded(pipeline, plain)
    return _decoded(pipeline, plain, plain.new_full((len(plain),), canvas.decode_timestep))


def _decoded(pipeline: Any, latents: Tensor, *conditions: Any) -> Tensor:
    import torch

    vae = pipeline.vae
    if vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
        # Stable Diffusion XL's overflows in float16; its pipeline goes to float32 for a moment too.
        vae.to(torch.float32)
        try:
            return vae.decode(latents.float(), *conditions, return_dict=False)[0]
        finally:
            vae.to(torch.float16)
    return vae.decode(latents.to(vae.dtype), *conditions, return_dict=False)[0]


def _channels(values: Any, like: Tensor) -> Tensor:
    import torch

    shape = (1, -1, *(1 for _ in range(like.ndim - 2)))
    return torch.as_tensor(values, device=like.device, dtype=like.dtype).view(shape)


FAMILIES: Final[dict[str, Family]] = {
    "StableDiffusion": Family(_still),  # 1.5, 2, XL, 3, 3.5 and their ControlNets
    "Kolors": Family(_still),
    "PixArt": Family(_still),
    "SanaPipeline": Family(_still),
    "FluxPipeline": Family(_flux),
    "QwenImagePipeline": Family(_qwen),
    "WanPipeline": Family(_wan, moving=True),
    "WanImageToVideoPipeline": Family(_wan, moving=True, given=_given_to_wan),
    "LTXPipeline": Family(_ltx, moving=True),
    "LTXImageToVideoPipeline": Family(_ltx, moving=True, picture_each=True, decoded_here=True),
}
"""Known pipelines by how the names of their classes begin; the longest name that fits counts."""
