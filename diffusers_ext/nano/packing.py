"""Many questions in one sequence: a shared prefix, then branches that see the prefix and themselves but not each other.

A branch's positions go on from the end of the prefix, so each one computes exactly what it would alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED: Final = -100


@dataclass(frozen=True)
class Picture:
    """A place for a picture in a row of tokens; `index` says which of the batch's pictures."""

    index: int


Item = int | Picture


@dataclass(frozen=True)
class Branch:
    """What is asked, what is to be predicted, and the weight of each predicted token in the loss."""

    question: tuple[Item, ...]
    answer: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    prefix: tuple[Item, ...]
    branches: tuple[Branch, ...]


@dataclass
class _Columns:
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Packed:
    """A batch of rows.

    Attributes:
        tokens, positions: int64 [rows, length].
        segments: int64 [rows, length], 0 in the prefix, then the number of the branch, -1 where there is only padding.
        pictures: int64 [places], for every picture place in reading order the index of the picture it shows.
        targets: int64 [rows, length], the token to predict at each position or IGNORED.
        weights: float32 [rows, length], the weight of each target.
        places: int64 [targets], where in the flattened rows there is something to predict, in reading order.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    pictures: Tensor
    targets: Tensor
    weights: Tensor
    places: Tensor

    @property
    def mask(self) -> Tensor:
        """Bool [rows, 1, length, length], true where a query (dim 2) may look at a key (dim 3)."""
        length = self.segments.shape[1]
        order = torch.arange(length, device=self.segments.device)
        seen = (self.segments[:, None, :] == 0) | (self.segments[:, None, :] == self.segments[:, :, None])
        return ((seen & (order[None, :] <= order[:, None])) | (order[None, :] == order[:, None]))[:, None]

    @property
    def chosen(self) -> tuple[Tensor, Tensor]:
        """The targets and their weights alone, [targets] each."""
        return self.targets.flatten()[self.places], self.weights.flatten()[self.places]


def pack(rows: Sequence[Row], frame: tuple[int, int, int], tokens_per_picture: int, pad: int) -> Packed:
    """Lay rows out as tensors, padded on the right.

    Args:
        rows: what to pack.
        frame: the token before a picture, the token repeated in place of it, and the token after it.
        tokens_per_picture: how often the middle one is repeated.
        pad: the padding token.
    """
    start, context, end = frame
    pictures: list[int] = []

    def expand(items: Sequence[Item]) -> list[int]:
        tokens: list[int] = []
        for item in items:
            if isinstance(item, Picture):
                pictures.append(item.index)
                tokens += [start, *[context] * tokens_per_picture, end]
            else:
                tokens.append(item)
        return tokens

    laid = [_lay_out(row, expand) for row in rows]
    length = max(len(columns.tokens) for columns in laid)

    def stack(name: str, fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(c, name) + [fill] * (length - len(c.tokens)) for c in laid], dtype=dtype)

    targets = stack("targets", IGNORED, torch.long)
    return Packed(
        tokens=stack("tokens", pad, torch.long),
        positions=stack("positions", 0, torch.long),
        segments=stack("segments", -1, torch.long),
        pictures=torch.tensor(pictures, dtype=torch.long),
        targets=targets,
        weights=stack("weights", 0.0, torch.float32),
        places=(targets.flatten() != IGNORED).nonzero()[:, 0],
    )


def _lay_out(row: Row, expand) -> _Columns:
    columns = _Columns()

    def add(tokens: list[int], first: int, segment: int, targets: list[int], weights: list[float]) -> None:
        columns.tokens += tokens
        columns.positions += range(first, first + len(tokens))
        columns.segments += [segment] * len(tokens)
        columns.targets += targets
        columns.weights += weights

    prefix = expand(row.prefix)
    add(prefix, 0, 0, [IGNORED] * len(prefix), [0.0] * len(prefix))
    for number, branch in enumerate(row.branches, start=1):
        question = expand(branch.question)
        tokens = question + list(branch.answer[:-1])
        silent = len(question) - 1
        targets = [IGNORED] * silent + list(branch.answer)
        add(tokens, len(prefix), number, targets, [0.0] * silent + list(branch.weights))
    return columns


def hidden_states(model, packed: Packed, features: Tensor) -> Tensor:
    """Run the language model of an InternVL over a packed batch.

    Args:
        model: an `InternVLForConditionalGeneration`.
        packed: the batch.
        features: [pictures, tokens_per_picture, width], what the vision tower and projector make of the pictures.

    Returns:
        [rows, length, width], the last hidden states.
    """
    embeddings = model.get_input_embeddings()(packed.tokens)
    places = (packed.tokens == model.config.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(places, features[packed.pictures].to(embeddings.dtype))
    return model.model.language_model(
        inputs_embeds=embeddings, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    ).last_hidden_state


@contextmanager
def watching(model, depth: int) -> Iterator[list[Tensor]]:
    """Keep what the first `depth` layers of the language model make of every batch while the context lasts."""
    kept: list[Tensor] = []
    layer = model.model.language_model.layers[depth - 1]
    hook = layer.register_forward_hook(
        lambda module, given, made: kept.append(made[0] if isinstance(made, tuple) else made)
    )
    try:
        yield kept
    finally:
        hook.remove()


def pack_by_length(
    rows: Sequence[Row], frame: tuple[int, int, int], tokens_per_picture: int, pad: int, batches: int
) -> list[Packed]:
    """Lay rows out as several batches of about as many rows, alike in length, so that little of them is padding."""
    ordered = sorted(rows, key=lambda row: _length(row, tokens_per_picture))
    bounds = [round(len(ordered) * number / batches) for number in range(batches + 1)]
    return [
        pack(ordered[first:last], frame, tokens_per_picture, pad)
        for first, last in itertools.pairwise(bounds)
        if last > first
    ]


def _length(row: Row, tokens_per_picture: int) -> int:
    items = [*row.prefix, *(item for branch in row.branches for item in branch.question)]
    pictures = sum(isinstance(item, Picture) for item in items)
    return len(items) + pictures * (tokens_per_picture + 1) + sum(len(branch.answer) - 1 for branch in row.branches)


def loss(model, batches: Sequence[Packed], features: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted next-token cross-entropy over all batches.

    Returns:
        The loss (scalar: weighted sum over targets divided by the sum of the weights), and for every target, batch by
        batch in reading order, whether it was the model's first choice.
    """
    costs: list[Tensor] = []
    right: list[Tensor] = []
    for packed in batches:
        targets, weights = packed.chosen
        hidden = hidden_states(model, packed, features).flatten(0, 1)
        log_probabilities = F.log_softmax(model.lm_head(hidden[packed.places]).float(), dim=-1)
        picked = log_probabilities.gather(1, targets[:, None])[:, 0]
        costs.append(-(weights * picked).sum())
        right.append(log_probabilities.detach().argmax(-1) == targets)
    total = torch.stack([packed.weights.sum() for packed in batches]).sum()
    return torch.stack(costs).sum() / total, torch.cat(right)
