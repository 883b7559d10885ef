"""Qwen2.5-VL: pictures of any size in patches, positions along time, height and width (M-RoPE)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Backbone, Pixels, Sight, normalized, resized


class Qwen25VL(Backbone):
    def described(self, inputs: Any, counts: list[int]) -> Pixels:
        grid = inputs["image_grid_thw"]
        return Pixels(inputs["pixel_values"], tuple(grid.prod(-1).tolist()), grid)

    def pixels_of(self, images: Tensor) -> Pixels:
        # How a size is rounded is transformers' own.
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        own = self.processor.image_processor
        patch, merge, frames = own.patch_size, own.merge_size, own.temporal_patch_size
        limits = own.size["shortest_edge"], own.size["longest_edge"]
        height, width = smart_resize(*images.shape[-2:], patch * merge, *limits)
        shown = normalized(resized(images, height, width, own.resample), own)
        rows, columns = height // patch, width // patch
        # [B, C, rows / merge, merge, patch, columns / merge, merge, patch]: a token's patches come one after the other.
        cut = shown.unflatten(3, (columns // merge, merge, patch)).unflatten(2, (rows // merge, merge, patch))
        patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]
        values = patches.expand(*patches.shape[:6], frames, -1, -1).flatten(5).flatten(0, 4)
        grid = torch.tensor([[1, rows, columns]] * len(images))
        return Pixels(values, (rows * columns,) * len(images), grid)

    def sights(self, features: Any, pixels: Pixels) -> list[Sight]:
        return [
            Sight(embeddings, shape)
            for embeddings, shape in zip(features.pooler_output, self.shapes(pixels), strict=True)
        ]

    def shapes(self, pixels: Pixels) -> list[tuple[int, int]]:
        """Rows and columns of each picture's tokens."""
        assert pixels.grid is not None
        merge = self.processor.image_processor.merge_size
        return [(int(rows) // merge, int(columns) // merge) for _, rows, columns in pixels.grid]

    def positions(self, sight: Sight | None, text: int, start: int) -> tuple[Tensor, int]:
        plane = torch.zeros(3, 0, dtype=torch.long)
        if sight is not None:
            assert sight.shape is not None
            rows, columns = sight.shape
            row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            plane = torch.stack([torch.zeros_like(row), row, column]).flatten(1) + start
            start += max(rows, columns)
        line = torch.arange(start, start + text).expand(3, -1)
        return torch.cat([plane, line], dim=1), start + text
