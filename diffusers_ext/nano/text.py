"""Teach the generator's text encoders what prompts mean, before anything is painted.

Stable Diffusion's text encoders were trained beforehand too, and stay as they are while it learns to paint: the
velocity says too little about words for them to be learned from it in reasonable time. The read-outs are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..progress import counted
from .scenes import COLOURS, RELATIONS, SHAPES, PromptSpec, sample_prompt
from .training import Schedule

_SHAPES: Final = (None, *SHAPES)
_COLOURS: Final = (None, *COLOURS)
_RELATIONS: Final = (None, *RELATIONS)
SLOTS: Final = (len(_SHAPES), len(_COLOURS), 4, len(_RELATIONS), len(_SHAPES), len(_COLOURS))
"""How many values each slot of a prompt can take: shape, colour, count, relation, second shape, second colour."""


def slots(spec: PromptSpec) -> tuple[int, ...]:
    """A prompt as one number for each slot."""
    first = spec.objects[0]
    second = spec.objects[1] if len(spec.objects) > 1 else None
    return (
        _SHAPES.index(first.shape),
        _COLOURS.index(first.colour),
        first.count - 1,
        _RELATIONS.index(spec.relation),
        _SHAPES.index(second.shape) if second else 0,
        _COLOURS.index(second.colour) if second else 0,
    )


def teach_words(
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    parameters: Sequence[nn.Parameter],
    rng: np.random.Generator,
    steps: int = 200,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> float:
    """Train until every slot of a prompt can be read off its embeddings by a linear map.

    Args:
        encode: prompts to embeddings of their last token [batch, width] and pooled embeddings [batch, pooled width].
        parameters: what learns.
        rng: source of the prompts.
        steps: how long.
        batch_size: prompts per step.
        learning_rate: AdamW's.

    Returns:
        The share of slots that were read right from the last step's prompts.
    """
    with torch.no_grad():
        last, pooled = encode(["a photo of a circle"])
    heads = nn.ModuleList([nn.Linear(part.shape[1], sum(SLOTS)) for part in (last, pooled)])
    optimizer = torch.optim.AdamW([*parameters, *heads.parameters()], lr=learning_rate, weight_decay=0.01)
    schedule = Schedule(steps, warmup=50)
    share = 0.0
    with counted("words", steps, 0, True) as progress:
        for step in range(steps):
            schedule.apply(optimizer, step)
            specs = [sample_prompt(rng) for _ in range(batch_size)]
            truth = torch.tensor([slots(spec) for spec in specs])
            read = [head(part) for head, part in zip(heads, encode([spec.text for spec in specs]), strict=True)]
            guesses = [logits for part in read for logits in part.split(SLOTS, 1)]
            answers = [*truth.unbind(1), *truth.unbind(1)]
            loss = torch.stack([F.cross_entropy(g, a) for g, a in zip(guesses, answers, strict=True)]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            right = torch.stack([g.argmax(1) == a for g, a in zip(guesses, answers, strict=True)])
            share = right.float().mean().item()
            progress.advance(loss=loss.detach(), right=share)
    return share
