"""Teach a language model to follow objects from frame to frame before it has words for how they move.

Captions and statements say little of motion beside all else that they say, and a model that starts from pictures looks
at each frame by itself for thousands of steps. Where each object came from, read off the picture tokens half-way
through the language model, is learned in hundreds, and the words then find it there. The read-out is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...rewards.videos import spread
from ..detection import CELLS
from ..packing import Packed
from ..reward_model import TOKENS_PER_IMAGE
from ..scenes import IMAGE_SIZE
from .scenes import FRAMES

if TYPE_CHECKING:
    from .render import Video
    from .writing import Frames

_CELL: Final = IMAGE_SIZE / CELLS
_FLAWS: Final = 5
UNIT: Final = 4.0
"""Pixels: about as far as objects get from one shown frame to the next, so that it is no small matter to the loss."""


@dataclass(frozen=True)
class Trails:
    """Where objects came from, for a batch of pictures of which some are frames of videos.

    Attributes:
        known: bool [pictures, 16], the cells with the centre of an object that the frames before show too.
        moved: float32 [pictures, 16, 4], by how many :data:`UNIT` it has moved, to the right and down, since the frame
            before and since the first one.
        last: int64 [videos], the last frame of every video.
        flaws: float32 [videos, 5], severities of flicker, jitter, freezing, jumps and changes.
    """

    known: Tensor
    moved: Tensor
    last: Tensor
    flaws: Tensor


def trails_of(videos: Sequence[tuple[Frames, Video]], pictures: int) -> Trails:
    """The truth about videos that are shown as some of a batch's pictures.

    Args:
        videos: each with the indices of its frames in the batch.
        pictures: how many pictures the batch has in all.
    """
    known = torch.zeros(pictures, TOKENS_PER_IMAGE, dtype=torch.bool)
    moved = torch.zeros(pictures, TOKENS_PER_IMAGE, 4)
    for frames, video in videos:
        shown = spread(FRAMES, len(frames))
        for place, before, now in zip(frames[1:], shown, shown[1:], strict=False):
            for track in video.tracks:
                first, old, new = (track.sightings[time] for time in (shown[0], before, now))
                if first is None or old is None or new is None:
                    continue
                column, row = (min(max(int(value / _CELL), 0), CELLS - 1) for value in (new.x, new.y))
                known[place, CELLS * row + column] = True
                ways = [new.x - old.x, new.y - old.y, new.x - first.x, new.y - first.y]
                moved[place, CELLS * row + column] = torch.tensor(ways) / UNIT
    return Trails(
        known,
        moved,
        torch.tensor([frames[-1] for frames, _ in videos]),
        torch.tensor([astuple(video.flaws) for _, video in videos]),
    )


class Follower(nn.Module):
    """A linear read-out of picture tokens inside a language model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.moved = nn.Linear(width, 4)
        self.flaws = nn.Linear(width, _FLAWS)

    def forward(
        self, seen: Sequence[tuple[Packed, Tensor]], image_token: int, trails: Trails
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """How far objects and flaws are from being read rightly.

        Args:
            seen: batches of rows, each with its hidden states [rows, length, width].
            image_token: which tokens stand for pictures.
            trails: the truth about the batch's pictures.

        Returns:
            The loss (a scalar), and how far off, in pixels, where objects were at first is read on average.
        """
        tokens = torch.cat([states[packed.tokens == image_token] for packed, states in seen])
        tokens = self.norm(tokens.float()).reshape(-1, TOKENS_PER_IMAGE, tokens.shape[-1])
        pictures = torch.cat([packed.pictures for packed, _ in seen])
        known = trails.known[pictures]
        moved, truth = self.moved(tokens[known]).float(), trails.moved[pictures][known]
        ends = pictures[:, None] == trails.last
        flaws = self.flaws(tokens[ends.any(1)].mean(1)).float()
        severities = trails.flaws[ends.int().argmax(1)[ends.any(1)]]
        loss = F.smooth_l1_loss(moved, truth) + 4 * F.mse_loss(flaws, severities)
        off = (moved.detach() - truth)[:, 2:].norm(dim=1).mean() * UNIT
        return loss, {"off": off, "moving": (flaws.detach() - severities).abs().mean()}
