"""The nano world's truth: what a picture shows, what a prompt asks, and whether the two agree.

Everything here is symbolic. :mod:`~diffusers_ext.nano.render` turns a :class:`Scene` into pixels, and
:mod:`~diffusers_ext.nano.oracle` recovers :class:`SeenObject` records from pixels; both ends meet in :func:`grade`.

The six prompt kinds and what counts as correct follow GenEval (Ghosh et al. 2023, arXiv 2310.11513).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

import numpy as np

IMAGE_SIZE: Final = 64
SMALLEST_RADIUS: Final = 7.5
"""Of an object, in pixels."""

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (218, 44, 44),
    "green": (46, 178, 70),
    "blue": (48, 88, 228),
    "yellow": (240, 218, 48),
    "purple": (152, 58, 200),
    "orange": (244, 136, 32),
    "cyan": (58, 208, 222),
    "white": (240, 240, 240),
}
SHAPES: Final = ("circle", "square", "triangle", "star", "cross")
PLURALS: Final = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
NUMBERS: Final = {"two": 2, "three": 3, "four": 4}

HELD_OUT: Final = frozenset(
    {("cyan", "circle"), ("orange", "square"), ("purple", "triangle"), ("yellow", "star"), ("green", "cross")}
)
"""(colour, shape) combinations, one for each shape; no prompt of a judge's lessons, or of training by rewards, has one.

The generator learned them as it did the others: what is to be seen is whether a gain carries over to them.
"""

PromptKind = Literal["single_object", "two_objects", "counting", "colours", "position", "colour_attribution"]
Relation = Literal["left of", "right of", "above", "below"]
PROMPT_KINDS: Final[tuple[PromptKind, ...]] = get_args(PromptKind)
RELATIONS: Final[tuple[Relation, ...]] = get_args(Relation)


class PromptError(ValueError):
    """The text is not a prompt of the nano world."""


@dataclass(frozen=True)
class SeenObject:
    """One object in a picture. ``x`` and ``y`` are the centre in pixels (y grows downwards), ``radius`` in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class SceneObject(SeenObject):
    """An object to be drawn: what is seen, plus its exact RGB colour (0..255) and rotation in degrees."""

    rgb: tuple[int, int, int]
    rotation: float


@dataclass(frozen=True)
class Scene:
    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]


@dataclass(frozen=True)
class ObjectSpec:
    """What a prompt asks of one object; ``colour`` None means any colour, ``count`` is exact when above one."""

    shape: str
    colour: str | None = None
    count: int = 1

    def fits(self, item: SeenObject) -> bool:
        """Whether an object is of this shape and, where one is asked for, of this colour."""
        return item.shape == self.shape and self.colour in (None, item.colour)

    @property
    def phrase(self) -> str:
        if self.count > 1:
            number = next(word for word, value in NUMBERS.items() if value == self.count)
            return f"{number} {PLURALS[self.shape]}"
        noun = f"{self.colour} {self.shape}" if self.colour else self.shape
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@dataclass(frozen=True)
class PromptSpec:
    """A prompt in symbols. ``relation`` is set for the kind ``position`` only: objects[0] is `relation` objects[1]."""

    kind: PromptKind
    objects: tuple[ObjectSpec, ...]
    relation: Relation | None = None

    @property
    def text(self) -> str:
        joint = f" {self.relation} " if self.relation else " and "
        return "a photo of " + joint.join(spec.phrase for spec in self.objects)

    @property
    def count(self) -> int:
        """How many objects it asks for."""
        return sum(spec.count for spec in self.objects)

    @property
    def is_held_out(self) -> bool:
        """Whether it names a (colour, shape) combination that training never saw."""
        return any((spec.colour, spec.shape) in HELD_OUT for spec in self.objects)


@dataclass(frozen=True)
class Check:
    """One requirement of a prompt and how far a picture meets it, in [0, 1]; it is met when ``score`` is 1."""

    requirement: str
    score: float

    @property
    def met(self) -> bool:
        return self.score == 1.0


@dataclass(frozen=True)
class Grade:
    """``score``: mean over the checks, in [0, 1]. ``correct``: every check is met (GenEval's notion).

    ``asked`` and ``shown`` are how many objects a prompt asks for and a picture shows; of videos both are left at 1.
    """

    checks: tuple[Check, ...]
    asked: int = 1
    shown: int = 1

    @property
    def score(self) -> float:
        return float(np.mean([check.score for check in self.checks]))

    @property
    def correct(self) -> bool:
        return all(check.met for check in self.checks)

    @property
    def exact(self) -> bool:
        """Correct, with no object that nobody asked for."""
        return self.correct and self.shown <= self.asked

    @property
    def exactness(self) -> float:
        """The score, and less by the share of objects that nobody asked for."""
        return self.score * self.asked / max(self.asked, self.shown)


def holds(relation: Relation, first: SeenObject, second: SeenObject) -> bool:
    """Whether `first` is `relation` `second`: the centres differ by more than 3 px that way."""
    dx, dy = second.x - first.x, second.y - first.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation] > 3.0


def grade(spec: PromptSpec, objects: tuple[SeenObject, ...] | list[SeenObject]) -> Grade:
    """Check what is seen against what was asked. Extra objects do no harm, except in counting (as in GenEval)."""
    checks: list[Check] = []
    for wanted in spec.objects:
        found = [item for item in objects if item.shape == wanted.shape]
        checks.append(Check(f"a {wanted.shape}", float(bool(found))))
        if wanted.colour is not None:
            coloured = any(item.colour == wanted.colour for item in found)
            checks.append(Check(f"a {wanted.colour} {wanted.shape}", float(coloured)))
        if wanted.count > 1:
            closeness = 1.0 - abs(len(found) - wanted.count) / max(len(found), wanted.count)
            checks.append(Check(f"{wanted.count} {PLURALS[wanted.shape]}", closeness))
    if spec.relation is not None:
        first, second = spec.objects
        related = any(
            holds(spec.relation, a, b)
            for a in objects
            for b in objects
            if a is not b and first.fits(a) and second.fits(b)
        )
        checks.append(Check(f"the {first.shape} {spec.relation} the {second.shape}", float(related)))
    return Grade(tuple(checks), spec.count, len(objects))


_OBJECT = rf"(?:a|an) (?:(?P<colour{{0}}>{'|'.join(COLOURS)}) )?(?P<shape{{0}}>{'|'.join(SHAPES)})"
_SINGULAR = re.compile(
    rf"a photo of {_OBJECT.format(1)}(?: (?P<joint>and|{'|'.join(RELATIONS)}) {_OBJECT.format(2)})?\.?"
)
_PLURAL = re.compile(rf"a photo of (?P<number>{'|'.join(NUMBERS)}) (?P<plural>{'|'.join(PLURALS.values())})\.?")


def parse_prompt(text: str) -> PromptSpec:
    """Read a prompt of the nano world back into symbols.

    Raises:
        PromptError: the text is outside the grammar; the message lists the forms it may take.
    """
    clean = " ".join(text.lower().split())
    if match := _PLURAL.fullmatch(clean):
        shape = next(name for name, plural in PLURALS.items() if plural == match["plural"])
        return PromptSpec("counting", (ObjectSpec(shape, count=NUMBERS[match["number"]]),))
    if match := _SINGULAR.fullmatch(clean):
        first = ObjectSpec(match["shape1"], match["colour1"])
        if match["joint"] is None:
            return PromptSpec("colours" if first.colour else "single_object", (first,))
        objects = (first, ObjectSpec(match["shape2"], match["colour2"]))
        if match["joint"] != "and":
            return PromptSpec("position", objects, cast(Relation, match["joint"]))
        colours = {spec.colour for spec in objects}
        if first.shape == objects[1].shape and (len(colours) == 1 or None in colours):
            raise PromptError(
                f"{text!r} names one object twice, so one alone would satisfy it; "
                f"say 'a photo of two {PLURALS[first.shape]}', or give them two colours"
            )
        coloured = any(spec.colour for spec in objects)
        return PromptSpec("colour_attribution" if coloured else "two_objects", objects)
    raise PromptError(
        f"{text!r} is not a prompt of the nano world. It understands, for example: 'a photo of a circle', "
        "'a photo of a circle and a star', 'a photo of three squares', 'a photo of a red star', "
        "'a photo of a circle left of a square', 'a photo of a red circle and a blue square'; "
        f"colours: {', '.join(COLOURS)}; shapes: {', '.join(SHAPES)}; numbers: {', '.join(NUMBERS)}; "
        f"relations: {', '.join(RELATIONS)}."
    )


def _choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _combination(rng: np.random.Generator, held_out: bool | None, shape: str | None = None) -> tuple[str, str]:
    """A (colour, shape); `held_out` True or False restricts it to that side of the split, None does not."""
    options = [
        (colour, name)
        for name in SHAPES
        for colour in COLOURS
        if (shape is None or name == shape) and (held_out is None or ((colour, name) in HELD_OUT) == held_out)
    ]
    return _choose(rng, options)


def sample_prompt(
    rng: np.random.Generator, kind: PromptKind | None = None, held_out: bool | None = False
) -> PromptSpec:
    """Draw a prompt.

    With `held_out` it names at least one held-out combination (kinds that name colours only); with None it may.
    """
    if held_out and kind is None:
        kind = _choose(rng, ("colours", "colour_attribution"))
    kind = kind or _choose(rng, PROMPT_KINDS)
    if held_out and kind not in ("colours", "colour_attribution"):
        raise ValueError(f"prompts of the kind {kind!r} name no colour, so none of them is held out")
    first, second = (str(name) for name in rng.choice(SHAPES, 2, replace=False))
    match kind:
        case "single_object":
            return PromptSpec(kind, (ObjectSpec(first),))
        case "two_objects":
            return PromptSpec(kind, (ObjectSpec(first), ObjectSpec(second)))
        case "counting":
            return PromptSpec(kind, (ObjectSpec(first, count=int(rng.integers(2, 5))),))
        case "colours":
            return PromptSpec(kind, (ObjectSpec(first, _combination(rng, held_out, first)[0]),))
        case "position":
            return PromptSpec(kind, (ObjectSpec(first), ObjectSpec(second)), _choose(rng, RELATIONS))
        case _:
            colours = [
                _combination(rng, held_out, first)[0],
                _combination(rng, None if held_out is None else False, second)[0],
            ]
            objects = [ObjectSpec(first, colours[0]), ObjectSpec(second, colours[1])]
            if rng.random() < 0.5:
                objects.reverse()
            return PromptSpec("colour_attribution", tuple(objects))


def all_prompts(kind: PromptKind) -> list[PromptSpec]:
    """Every prompt of a kind, held-out ones included, in a fixed order."""
    pairs = [(a, b) for a in SHAPES for b in SHAPES if a != b]
    match kind:
        case "single_object":
            return [PromptSpec(kind, (ObjectSpec(shape),)) for shape in SHAPES]
        case "two_objects":
            return [PromptSpec(kind, (ObjectSpec(a), ObjectSpec(b))) for a, b in pairs]
        case "counting":
            return [PromptSpec(kind, (ObjectSpec(shape, count=n),)) for shape in SHAPES for n in NUMBERS.values()]
        case "colours":
            return [PromptSpec(kind, (ObjectSpec(shape, colour),)) for shape in SHAPES for colour in COLOURS]
        case "position":
            return [PromptSpec(kind, (ObjectSpec(a), ObjectSpec(b)), r) for a, b in pairs for r in RELATIONS]
        case _:
            return [
                PromptSpec(kind, (ObjectSpec(a, c), ObjectSpec(b, d)))
                for a, b in pairs
                for c in COLOURS
                for d in COLOURS
            ]


def shade(rng: np.random.Generator, colour: str) -> tuple[int, int, int]:
    """A colour as objects have it: each channel within 10 of the palette's."""
    red, green, blue = np.clip(np.array(COLOURS[colour]) + rng.integers(-10, 11, 3), 0, 255)
    return int(red), int(green), int(blue)


def _place(rng: np.random.Generator, shapes: list[str], colours: list[str]) -> Scene | None:
    """Scatter objects with room between them; None when this draw of radii does not fit."""
    largest = {1: 15.0, 2: 12.0, 3: 10.5}.get(len(shapes), 9.5)
    placed: list[SceneObject] = []
    for shape, colour in zip(shapes, colours, strict=True):
        radius = float(rng.uniform(SMALLEST_RADIUS, largest))
        margin = radius + 2.0
        for _ in range(30):
            x, y = rng.uniform(margin, IMAGE_SIZE - margin, 2)
            if all(np.hypot(x - other.x, y - other.y) > radius + other.radius + 2.5 for other in placed):
                break
        else:
            return None
        placed.append(_drawn(rng, shape, colour, float(x), float(y), radius))
    return Scene(tuple(placed), _background(rng))


def _drawn(rng: np.random.Generator, shape: str, colour: str, x: float, y: float, radius: float) -> SceneObject:
    return SceneObject(shape, colour, x, y, radius, shade(rng, colour), float(rng.uniform(-10, 10)))


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    grey = rng.uniform(18, 46)
    red, green, blue = np.clip(grey + rng.uniform(-7, 7, 3), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _check_count(shapes: list[str]) -> None:
    if not 1 <= len(shapes) <= 4:
        raise ValueError(f"a scene holds one to four objects, not {len(shapes)}")


def place(rng: np.random.Generator, shapes: list[str], colours: list[str]) -> Scene:
    """A scene of the given objects (one to four), at random places and sizes, none touching another."""
    _check_count(shapes)
    while (scene := _place(rng, shapes, colours)) is None:
        pass
    return scene


Placing = Callable[[np.random.Generator, list[str], list[str]], Scene]
"""How objects of given shapes and colours are put into a scene: :func:`place` or :func:`place_in_cells`."""


def place_in_cells(rng: np.random.Generator, shapes: list[str], colours: list[str]) -> Scene:
    """A scene of small objects (one to four), each near the middle of a cell of its own in a grid of 4 x 4.

    Easier to paint than :func:`place`'s: an object is in one patch of a picture's 16, or nearly.
    """
    _check_count(shapes)
    while True:
        radii = rng.uniform(SMALLEST_RADIUS, SMALLEST_RADIUS + 1.0, len(shapes))
        rows, columns = np.divmod(rng.permutation(16)[: len(shapes)], 4)
        centres = 16.0 * np.stack([columns, rows], 1) + 8.0 + rng.uniform(-1.5, 1.5, (len(shapes), 2))
        centres = np.clip(centres, (radii + 1.0)[:, None], (IMAGE_SIZE - radii - 1.0)[:, None])
        distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        touching = distances <= radii[:, None] + radii[None] + 2.5
        if not np.triu(touching, 1).any():
            break
    placed = [
        _drawn(rng, shape, colour, float(x), float(y), float(radius))
        for shape, colour, (x, y), radius in zip(shapes, colours, centres, radii, strict=True)
    ]
    return Scene(tuple(placed), _background(rng))


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A random scene free of held-out combinations."""
    combinations = [_combination(rng, False) for _ in range(count or int(rng.integers(1, 5)))]
    return place(rng, [shape for _, shape in combinations], [colour for colour, _ in combinations])


def sample_scene_for(
    rng: np.random.Generator,
    spec: PromptSpec,
    extra: float = 0.15,
    placing: Placing = place,
    held_out: bool | None = False,
) -> Scene:
    """A random scene that satisfies `spec`; with probability `extra` it holds one object more than was asked.

    Colours that the prompt leaves open, and extra objects, avoid held-out combinations, unless `held_out` is None.
    """
    while True:
        wanted = [item for item in spec.objects for _ in range(item.count)]
        shapes = [item.shape for item in wanted]
        colours = [item.colour or _combination(rng, held_out, item.shape)[0] for item in wanted]
        if len(shapes) < 4 and rng.random() < extra:
            others = [shape for shape in SHAPES if spec.kind != "counting" or shape not in shapes]
            shapes.append(_choose(rng, others))
            colours.append(_combination(rng, held_out, shapes[-1])[0])
        scene = placing(rng, shapes, colours)
        if grade(spec, scene.objects).correct:
            return scene
