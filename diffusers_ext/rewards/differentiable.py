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

from .backbones.base import Backbone, Sight
from .engine import last, lay_out, log_odds

Layout = Sequence[tuple[int, ...]]
"""The tokens before the first picture and after each, as :meth:`Backbone.pieces` gives them."""


def candidate_log_odds(
    backbone: Backbone,
    layouts: Sequence[Layout],
    candidates: Tensor,
    references: Tensor | Sequence[Image.Image] | None,
    examples: Sequence[Image.Image],
    debias: bool,
    checkpointing: bool,
) -> Tensor:
    """Log-odds of yes for each candidate, float [B].

    Args:
        backbone: the model.
        layouts: B questions, each with a place for every example, then for the reference (if any), then the candidate.
        candidates: float [B, 3, H, W] in [0, 1].
        references: B or one, as a float tensor [B, 3, H, W] in [0, 1] or as pictures; or None.
        examples: pictures shown before the question.
        debias: ask both orders, and return half the difference.
        checkpointing: compute activations anew in the backward pass instead of keeping them.
    """
    with saving_memory(backbone.model) if checkpointing else nullcontext():
        shown = backbone.look(backbone.pixels_of(candidates))
        with torch.no_grad():
            before = backbone.look(backbone.pixels(examples)) if examples else []
        if references is None:
            return _asked(backbone, layouts, [[*before, own] for own in shown])
        if isinstance(references, Tensor):
            with nullcontext() if references.requires_grad else torch.no_grad():
                against = backbone.look(backbone.pixels_of(references))
        else:
            with torch.no_grad():
                against = backbone.look(backbone.pixels(references))
        against = against * (len(shown) // len(against))
        pairs = list(zip(against, shown, strict=True))
        orders = [[*before, other, own] for other, own in pairs]
        if not debias:
            return _asked(backbone, layouts, orders)
        orders += [[*before, own, other] for other, own in pairs]
        first, second = _asked(backbone, [*layouts, *layouts], orders).chunk(2)
        return (first - second) / 2


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
