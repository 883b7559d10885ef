"""Teach a vision tower to see before it has words for anything: what is where, read off its picture tokens.

Big vision-language models start from a vision tower that sees already; the nano ones start from nothing, and learn
this many times faster from objects and places than from captions. The read-out is thrown away after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .preferences import Group
from .scenes import COLOURS, IMAGE_SIZE, SHAPES

CELLS: Final = 4
"""A picture's 16 tokens are a grid of 4 x 4, row by row; a token answers for the object whose centre it holds."""
_COLOURS: Final = {name: index for index, name in enumerate(COLOURS)}
_SHAPES: Final = {name: index for index, name in enumerate(SHAPES)}
_FLAWS: Final = 4


@dataclass(frozen=True)
class Targets:
    """What is to be read off the tokens of a batch of pictures.

    Attributes:
        present: bool [pictures, 16], whether the centre of an object lies in the cell.
        colours, shapes: int64 [objects], of the present ones in reading order.
        places: float32 [objects, 2], their centres within their cells, in [0, 1].
        flaws: float32 [known pictures, 4], severities of blur, noise, washout and breakage.
        known: bool [pictures], for which pictures the flaws are known.
    """

    present: Tensor
    colours: Tensor
    shapes: Tensor
    places: Tensor
    flaws: Tensor
    known: Tensor


def targets_of(groups: Sequence[Group]) -> Targets:
    """The truth about all pictures of all groups, in order."""
    pictures = [(picture, not group.generated) for group in groups for picture in group.pictures]
    present = torch.zeros(len(pictures), CELLS * CELLS, dtype=torch.bool)
    size = IMAGE_SIZE / CELLS
    found: dict[tuple[int, int], tuple[int, int, float, float]] = {}
    for index, (picture, _) in enumerate(pictures):
        for item in picture.objects:
            x, y = (min(max(value / size, 0.0), CELLS - 1e-6) for value in (item.x, item.y))
            cell = CELLS * int(y) + int(x)
            present[index, cell] = True
            found[index, cell] = (_COLOURS[item.colour], _SHAPES[item.shape], x % 1.0, y % 1.0)
    items = [found[place] for place in sorted(found)]
    return Targets(
        present=present,
        colours=torch.tensor([item[0] for item in items], dtype=torch.long),
        shapes=torch.tensor([item[1] for item in items], dtype=torch.long),
        places=torch.tensor([item[2:] for item in items], dtype=torch.float32).reshape(-1, 2),
        flaws=torch.tensor([astuple(p.degradation) for p, known in pictures if known]).reshape(-1, _FLAWS),
        known=torch.tensor([known for _, known in pictures]),
    )


class Detector(nn.Module):
    """A linear read-out of picture tokens, [pictures, 16, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = (1, len(COLOURS), len(SHAPES), 2, _FLAWS)
        self.read = nn.Linear(width, sum(self.parts))

    def forward(self, features: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar), and how well colours, shapes and flaws are read where there is something to read."""
        present, colours, shapes, places, flaws = self.read(features).float().split(self.parts, -1)
        here = targets.present
        colours, shapes = colours[here], shapes[here]
        severities = flaws.mean(1)[targets.known]
        loss = (
            4 * F.binary_cross_entropy_with_logits(present[..., 0], here.float())
            + F.cross_entropy(colours, targets.colours)
            + F.cross_entropy(shapes, targets.shapes)
            + F.smooth_l1_loss(places[here], targets.places)
        )
        if len(severities):
            loss = loss + 4 * F.mse_loss(severities, targets.flaws)
        figures = {
            "found": ((present[..., 0] > 0) == here).all(1).float().mean(),
            "colours": (colours.argmax(-1) == targets.colours).float().mean(),
            "shapes": (shapes.argmax(-1) == targets.shapes).float().mean(),
            "flaws": (severities.detach() - targets.flaws).abs().mean(),
        }
        return loss, figures
