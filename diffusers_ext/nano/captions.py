"""Captions that are wrong in one thing, as many are that come with pictures from the web.

A generator that learns from them knows better than it paints: given a prompt it also paints what such captions go with.
Guidance, choosing, and training by a judge bring out what it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from .scenes import COLOURS, NUMBERS, SHAPES, PromptSpec, Relation, SeenObject, grade

OPPOSITES: Final[dict[Relation, Relation]] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


def slip(rng: np.random.Generator, spec: PromptSpec, objects: Sequence[SeenObject]) -> PromptSpec:
    """A prompt of the same kind that says one thing of `objects` wrongly: a shape, colour, number or relation.

    Args:
        rng: draws what is said wrongly, and how.
        spec: a prompt that the objects satisfy.
        objects: what the picture shows.

    Returns:
        A prompt that they do not satisfy.
    """
    ways = ["shape", "shape"]
    if spec.relation is not None:
        ways += ["relation"] * 2
    for name, said in (("colour", spec.objects[0].colour), ("count", spec.objects[0].count > 1)):
        ways += [name] * 2 if said else []
    if spec.kind == "colour_attribution":
        ways += ["exchange"] * 2
    while True:
        wrong = _said(rng, spec, str(rng.choice(ways)))
        named = [item.shape for item in wrong.objects]
        if len(set(named)) == len(named) and not grade(wrong, list(objects)).correct:
            return wrong


def _said(rng: np.random.Generator, spec: PromptSpec, way: str) -> PromptSpec:
    """`spec` with one thing changed that way, not always to what is wrong."""
    if way == "relation" and spec.relation is not None:
        return replace(spec, relation=OPPOSITES[spec.relation])
    if way == "exchange":
        first, second = spec.objects
        return replace(spec, objects=(replace(first, colour=second.colour), replace(second, colour=first.colour)))
    which = int(rng.integers(len(spec.objects)))
    item = spec.objects[which]
    match way:
        case "shape":
            item = replace(item, shape=str(rng.choice(SHAPES)))
        case "colour":
            item = replace(item, colour=str(rng.choice(list(COLOURS))))
        case _:
            item = replace(item, count=int(rng.choice(list(NUMBERS.values()))))
    return replace(spec, objects=(*spec.objects[:which], item, *spec.objects[which + 1 :]))
