"""Qwen3-VL: Qwen2.5-VL's layout, and features of early vision layers added to early language layers (DeepStack)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import prompts
from .base import Pixels, Sight
from .qwen2_5_vl import Qwen25VL


class Qwen3VL(Qwen25VL):
    def clip(self, frames: int, rate: float) -> tuple[list[prompts.Part], list[slice]]:
        span = self.processor.image_processor.temporal_patch_size
        parts: list[prompts.Part] = []
        places = [slice(start, min(start + span, frames)) for start in range(0, frames, span)]
        for place in places:
            # The time said is that of the middle, with the last frame repeated where one is missing.
            middle = (place.start + min(place.start + span - 1, frames - 1)) / 2 / rate
            parts += [{"type": "text", "text": f"<{middle:.1f} seconds>"}, prompts.IMAGE]
        return parts, places

    def pace(self, pixels: Pixels) -> float:
        return 1.0  # times are written out, so every step is a picture of its own

    def sights(self, features: Any, pixels: Pixels) -> list[Sight]:
        deep = zip(*features.deepstack_features, strict=True)
        return [
            Sight(embeddings, shape, deep=tuple(layers))
            for embeddings, shape, layers in zip(features.pooler_output, self.shapes(pixels), deep, strict=True)
        ]

    def beside(self, embeddings: Tensor, shown: Sequence[Sequence[tuple[int, Sight]]]) -> dict[str, Any]:
        found = [(row, place, sight) for row, pictures in enumerate(shown) for place, sight in pictures]
        if not found:
            return {}
        places = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=embeddings.device)
        for row, place, sight in found:
            places[row, place : place + len(sight)] = True
        layers = zip(*(sight.deep for _, _, sight in found), strict=True)
        return {"visual_pos_masks": places, "deepstack_visual_embeds": [torch.cat(layer) for layer in layers]}
