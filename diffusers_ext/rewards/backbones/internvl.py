"""InternVL 2.5, 3 and 3.5, as transformers has them: pictures in square tiles, positions in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import prompts
from .base import Backbone, Pixels, Sight, normalized, resized


class InternVL(Backbone):
    def frame(self, text: str) -> str:
        place = self.processor.image_token
        return text.replace(place, f"{self.processor.start_image_token}{place}{self.processor.end_image_token}")

    def clip(self, frames: int, rate: float) -> tuple[list[prompts.Part], list[slice]]:
        return prompts.numbered_frames(frames), [slice(index, index + 1) for index in range(frames)]

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        # The layout of the tiles is transformers' own.
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        own = self.processor.image_processor
        options = {"crop_to_patches": own.crop_to_patches, **self.processor.images_kwargs}
        tile = own.size["height"], own.size["width"]
        if not options["crop_to_patches"] or own.max_patches == 1:
            return [tile]
        columns, rows = get_optimal_tiled_canvas((height, width), tile, own.min_patches, own.max_patches)
        return [tile] if columns * rows == 1 else [(rows * tile[0], columns * tile[1]), tile]

    def cut(self, shown: Sequence[Tensor]) -> Pixels:
        *canvases, whole = shown
        height, width = whole.shape[-2:]
        tiles = [item.unflatten(2, (-1, height)).unflatten(4, (-1, width)) for item in canvases]
        cut = [item.permute(0, 2, 4, 1, 3, 5).flatten(1, 2) for item in tiles]
        every = torch.cat([*cut, whole[:, None]], dim=1)
        return Pixels(normalized(every.flatten(0, 1), self.processor.image_processor), (every.shape[1],) * len(whole))

    def moving(self, frames: Tensor, interval: float) -> Pixels:
        own = self.processor.image_processor
        # Frames are never cut into tiles.
        whole = resized(frames.flatten(0, 1), own.size["height"], own.size["width"], own.resample)
        return Pixels(normalized(whole, own), (frames.shape[1],) * len(frames))

    def sights(self, features: Any, pixels: Pixels) -> list[Sight]:
        return [Sight(tiles.flatten(0, 1)) for tiles in features.pooler_output.split(pixels.rows)]
