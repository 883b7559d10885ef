"""Teach a language model to tell two pictures apart: which one is the reference and which one the candidate.

Words look up in a picture what they speak of, and of two pictures they see both at once, as one. That is a plateau: a
model that cannot tell them apart learns nothing from which of them is better, and what cannot be used is not learned.
So its first layer is made to mark the tokens of pictures along one direction, large enough for later ones to use.
The direction is thrown away after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from .packing import Packed

SHARE: Final = 0.7
"""Length of the mark against that of a token's state: about as much as all else that the token holds."""


def of_two(packed: Packed, image_token: int) -> Tensor:
    """Bool [rows, length], which tokens are of pictures in rows with two at a time: a reference, then candidates."""
    pictures = packed.tokens == image_token
    return pictures & (pictures & (packed.segments == 0)).any(1, keepdim=True)


class Marker(nn.Module):
    """The direction that is marked along, [width], forwards for candidates and backwards for references."""

    axis: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        axis = torch.randn(width, generator=torch.Generator().manual_seed(0))
        self.register_buffer("axis", axis / axis.norm(), persistent=False)

    def forward(self, seen: Sequence[tuple[Packed, Tensor]], image_token: int) -> tuple[Tensor, Tensor]:
        """How far the marks are from what they are to be.

        Args:
            seen: batches of rows, each with what the first layer makes of it, [rows, length, width].
            image_token: which tokens stand for pictures.

        Returns:
            Scalars: the mean square of what marks lack, in units of their length, and the share of tokens that are
            marked as what they are. Both are 0 if no row holds two pictures.
        """
        where = [of_two(packed, image_token) for packed, _ in seen]
        shown = torch.cat([states[here] for (_, states), here in zip(seen, where, strict=True)]).float()
        segments = torch.cat([packed.segments[here] for (packed, _), here in zip(seen, where, strict=True)])
        wanted = torch.where(segments > 0, 1.0, -1.0)
        count = max(1, len(wanted))
        found = shown @ self.axis / (SHARE * shown.detach().norm(dim=-1).sum() / count)
        return (found - wanted).square().sum() / count, (found * wanted > 0).sum() / count
