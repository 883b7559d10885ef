"""Qwen2.5-VL: pictures of any size in patches, positions along time, height and width (M-RoPE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from .. import prompts
from .base import Backbone, Pixels, Sight, normalized, resized

LARGEST_FRAME: Final = 768
"""Tokens of a video's frame at most, as the model's authors have it."""


class Qwen25VL(Backbone):
    def clip(self, frames: int, rate: float) -> tuple[list[prompts.Part], list[slice]]:
        return [prompts.IMAGE], [slice(0, frames)]

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        return [self._rounded(height, width, self.processor.image_processor.size["longest_edge"])]

    def cut(self, shown: Sequence[Tensor]) -> Pixels:
        (images,) = shown
        return self._patches(images[:, None])

    def moving(self, frames: Tensor, interval: float) -> Pixels:
        own = self.processor.image_processor
        limit = LARGEST_FRAME * (own.patch_size * own.merge_size) ** 2
        height, width = frames.shape[-2:]
        high, wide = self._rounded(height, width, min(limit, own.size["longest_edge"]))
        shown = resized(frames.flatten(0, 1), high, wide, own.resample).unflatten(0, frames.shape[:2])
        return replace(self._patches(shown), seconds=interval * own.temporal_patch_size)

    def _rounded(self, height: int, width: int, limit: int) -> tuple[int, int]:
        """A size in whole tokens, of at most `limit` pixels."""
        # How it is rounded is transformers' own.
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        own = self.processor.image_processor
        return smart_resize(height, width, own.patch_size * own.merge_size, own.size["shortest_edge"], limit)

    def _patches(self, frames: Tensor) -> Pixels:
        """Cut [B, F, 3, H, W] into patches that span `temporal_patch_size` frames; a last frame too few is repeated."""
        own = self.processor.image_processor
        patch, merge, span = own.patch_size, own.merge_size, own.temporal_patch_size
        batch, count, _, height, width = frames.shape
        shown = normalized(frames.flatten(0, 1), own).unflatten(0, (batch, count))
        if extra := -count % span:
            shown = torch.cat([shown, shown[:, -1:].expand(-1, extra, -1, -1, -1)], dim=1)
        rows, columns = height // patch, width // patch
        # [B, steps, span, C, rows / merge, merge, patch, columns / merge, merge, patch]: a token's patches come one
        # after the other, and within a patch channels, then frames, then pixels.
        cut = shown.unflatten(4, (columns // merge, merge, patch)).unflatten(3, (rows // merge, merge, patch))
        cut = cut.unflatten(1, (-1, span))
        values = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).flatten(6).flatten(0, 5)
        steps = shown.shape[1] // span
        return Pixels(values, (steps * rows * columns,) * batch, torch.tensor([[steps, rows, columns]] * batch))

    def sights(self, features: Any, pixels: Pixels) -> list[Sight]:
        pace = self.pace(pixels)
        return [
            Sight(embeddings, shape, pace)
            for embeddings, shape in zip(features.pooler_output, self.shapes(pixels), strict=True)
        ]

    def shapes(self, pixels: Pixels) -> list[tuple[int, int, int]]:
        """Steps in time, rows and columns of each picture's tokens."""
        assert pixels.grid is not None
        merge = self.processor.image_processor.merge_size
        return [(int(steps), int(rows) // merge, int(columns) // merge) for steps, rows, columns in pixels.grid]

    def pace(self, pixels: Pixels) -> float:
        """How many positions a step in time takes."""
        return 1.0 if pixels.seconds is None else self.model.config.vision_config.tokens_per_second * pixels.seconds

    def positions(self, sight: Sight | None, text: int, start: int) -> tuple[Tensor, int]:
        plane = torch.zeros(3, 0, dtype=torch.long)
        if sight is not None:
            assert sight.shape is not None
            steps, rows, columns = sight.shape
            times = (torch.arange(steps) * sight.pace).long()
            plane = torch.stack(torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij"))
            plane = plane.flatten(1) + start
            start += max(rows, columns)
        line = torch.arange(start, start + text).expand(3, -1)
        return torch.cat([plane, line], dim=1), start + text
