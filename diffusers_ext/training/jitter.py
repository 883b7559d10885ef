"""Pictures changed a little before a judge sees them whose gradient is climbed.

A gradient finds pixels that please one judge and nobody else. What pleases it wherever the picture is moved to, in
other light and under noise, is more likely what the picture shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Jitter:
    """How far a picture may be changed; everything is drawn anew for each picture and iteration.

    Attributes:
        shift: of the side; by so much it may be moved each way. What comes in at the edge repeats the edge.
        light: share by which it may be brighter or darker.
        noise: largest standard deviation of normal noise, of the range of pixels.
    """

    shift: float = 0.05
    light: float = 0.05
    noise: float = 0.05


def jittered(images: Tensor, jitter: Jitter, seeds: Sequence[tuple[int, ...]]) -> Tensor:
    """Changed pictures, differentiable in the pixels.

    Args:
        images: float [B, 3, H, W] (or videos [B, F, 3, H, W], whose frames are changed alike but for the noise).
        jitter: how far.
        seeds: one for each picture; nothing else is drawn from.

    Returns:
        float like `images`, in [0, 1].
    """
    height, width = images.shape[-2:]
    most = round(jitter.shift * max(height, width))
    changed = []
    for image, seed in zip(images, seeds, strict=True):
        rng = np.random.default_rng(seed)
        down, right = rng.integers(0, 2 * most + 1, 2).tolist()
        light, spread = 1 + jitter.light * rng.uniform(-1, 1), jitter.noise * rng.random()
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(image.shape, generator=generator).to(image)
        frames = image if image.ndim == 4 else image[None]
        moved = F.pad(frames, (most, most, most, most), mode="replicate")
        moved = moved[..., down : down + height, right : right + width].reshape(image.shape)
        changed.append(light * moved + spread * noise)
    return torch.stack(changed).clamp(0, 1)
