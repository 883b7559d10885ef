"""The reward as a differentiable function of the pixels: what guidance and reward fine-tuning climb.

The whole path is torch: a resize and a normalisation that match the model's processor, the vision tower, the language
model, and the two rows of the output head. Weights may be quantized and frozen; the gradient passes through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .backbones.base import Backbone, Pixels, Sight
from .engine import last, lay_out, log_odds

Layout = Sequence[tuple[int, ...]]
"""The tokens before the first picture and after each, as :meth:`Backbone.pieces` gives them."""


def candidate_log_odds(
    backbone: Backbone,
    layouts: Sequence[Layout],
    candidates: Sequence[Pixels],
    references: Sequence[Pixels] | None,
    given: Sequence[Sequence[Image.Image]],
    debias: bool,
    checkpointing: bool,
) -> Tensor:
    """Log-odds of yes for each candidate, float [B].

    Args:
        backbone: the model.
        layouts: B questions, each with a place for every picture that is given, then for those of the reference (if
            there is one), then for those of the candidate.
        candidates: what stands in their places, in order; of each of these, the first candidate's come first.
        references: the same of B references, or of one; or None.
        given: pictures shown before, for each candidate: examples, and the first frame of a video.
        debias: ask both orders, and return half the difference.
        checkpointing: compute activations anew in the backward pass instead of keeping them.
    """
    count = len(layouts)
    with saving_memory(backbone.model) if checkpointing else nullcontext():
        shown = _looked_at(backbone, candidates, count)
        before = _given(backbone, given)
        if references is None:
            return _asked(backbone, layouts, [[*first, *own] for first, own in zip(before, shown, strict=True)])
        with nullcontext() if any(item.values.requires_grad for item in references) else torch.no_grad():
            single = len(references[0].rows) == 1
            against = _looked_at(backbone, references, 1) * count if single else _looked_at(backbone, references, count)
        rows = list(zip(before, against, shown, strict=True))
        orders = [[*first, *other, *own] for first, other, own in rows]
        if not debias:
            return _asked(backbone, layouts, orders)
        orders += [[*first, *own, *other] for first, other, own in rows]
        there, back = _asked(backbone, [*layouts, *layouts], orders).chunk(2)
        return (there - back) / 2


def _looked_at(backbone: Backbone, lots: Sequence[Pixels], count: int) -> list[list[Sight]]:
    """What stands in the places of each of `count` candidates, in order."""
    found: list[list[Sight]] = [[] for _ in range(count)]
    for lot in lots:
        sights = backbone.look(lot)
        each = len(sights) // count
        for number, places in enumerate(found):
            places += sights[number * each : (number + 1) * each]
    return found


@torch.no_grad()
def _given(backbone: Backbone, rows: Sequence[Sequence[Image.Image]]) -> list[list[Sight]]:
    distinct = {id(image): image for row in rows for image in row}
    if not distinct:
        return [[] for _ in rows]
    seen = dict(zip(distinct, backbone.look(backbone.pixels(list(distinct.values()))), strict=True))
    return [[seen[id(image)] for image in row] for row in rows]


def _asked(backbone: Backbone, layouts: Sequence[Layout], shown: Sequence[Sequence[Sight]]) -> Tensor:
    rows = [list(zip((None, *sights), layout, strict=True)) for sights, layout in zip(shown, layouts, strict=True)]
    laid = lay_out(backbone, rows, [0] * len(rows))
    hidden = backbone.read(laid.embeddings, laid.positions, laid.mask, None, laid.shown)
    return log_odds(backbone, last(hidden, laid.mask))


@contextmanager
def saving_memory(model: PreTrainedModel) -> Iterator[None]:
    """Checkpoint every layer of a model that stays in evaluation mode otherwise.

    transformers checkpoints layers in training mode only, so the layers alone, not what is inside them, are put into
    it: dropout stays off.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.gradient_checkpointing, layer.training = True, True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.gradient_checkpointing, layer.training = False, mode
