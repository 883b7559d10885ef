"""Some latents of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers_ext.rewards.errors import ImageError


def take(latents: dict[str, Any], places: Sequence[int], count: int) -> dict[str, Any]:
    """The latents at some places, with the masks and batch indices that belong to them.

    Args:
        latents: a LATENT: `samples` [B, ...], maybe `noise_mask` and `batch_index`.
        places: which, in this order.
        count: how many pictures they belong to.

    Raises:
        ImageError: not as many latents as pictures.
    """
    samples = latents["samples"]
    if len(samples) != count:
        raise ImageError(f"latents: got {len(samples)} for {count} pictures; give those the pictures were decoded from")
    chosen = list(places)
    taken = {**latents, "samples": samples[chosen]}
    mask = latents.get("noise_mask")
    if mask is not None and len(mask) == count:
        taken["noise_mask"] = mask[chosen]
    if "batch_index" in latents:
        taken["batch_index"] = [latents["batch_index"][place] for place in chosen]
    return taken
