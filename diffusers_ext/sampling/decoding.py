"""Latents as pictures, half-way through a pipeline as at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .levels import SamplingError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def decode(pipeline: Any, latents: Tensor) -> list[Image.Image]:
    """What a pipeline's own last lines make of latents [B, C, h, w]: one picture each.

    Raises:
        SamplingError: latents that are packed, or of videos, or a pipeline with no autoencoder.
    """
    import torch

    vae, processor = getattr(pipeline, "vae", None), getattr(pipeline, "image_processor", None)
    if vae is None or processor is None or latents.ndim != 4:
        raise SamplingError(
            f"the latents of {type(pipeline).__name__} ({latents.ndim} axes) cannot be looked at half-way; "
            "best_of_n works with any pipeline"
        )
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    with torch.no_grad():
        pixels = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype), return_dict=False)[0]
    return processor.postprocess(pixels, output_type="pil")
