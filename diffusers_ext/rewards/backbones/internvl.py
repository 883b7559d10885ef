"""InternVL 2.5, 3 and 3.5, as transformers has them: pictures in square tiles, positions in one line."""

from __future__ import annotations

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

    def described(self, inputs: Any, counts: list[int]) -> Pixels:
        return Pixels(inputs["pixel_values"], tuple(count // self.processor.image_seq_length for count in counts))

    def pixels_of(self, images: Tensor) -> Pixels:
        # The layout of the tiles is transformers' own.
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        own = self.processor.image_processor
        options = {"crop_to_patches": own.crop_to_patches, **self.processor.images_kwargs}
        size, height, width = own.size, *images.shape[-2:]
        columns = rows = 1
        if options["crop_to_patches"] and own.max_patches > 1:
            columns, rows = get_optimal_tiled_canvas(
                (height, width), (size["height"], size["width"]), own.min_patches, own.max_patches
            )
        whole = resized(images, size["height"], size["width"], own.resample)
        tiles = whole[:, None]
        if columns * rows > 1:
            canvas = resized(images, rows * size["height"], columns * size["width"], own.resample)
            cut = canvas.unflatten(2, (rows, size["height"])).unflatten(4, (columns, size["width"]))
            tiles = torch.cat([cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2), tiles], dim=1)
        return Pixels(normalized(tiles.flatten(0, 1), own), (tiles.shape[1],) * len(images))

    def moving(self, frames: Tensor, interval: float) -> Pixels:
        own = self.processor.image_processor
        # Frames are never cut into tiles.
        whole = resized(frames.flatten(0, 1), own.size["height"], own.size["width"], own.resample)
        return Pixels(normalized(whole, own), (frames.shape[1],) * len(frames))

    def sights(self, features: Any, pixels: Pixels) -> list[Sight]:
        return [Sight(tiles.flatten(0, 1)) for tiles in features.pooler_output.split(pixels.rows)]
