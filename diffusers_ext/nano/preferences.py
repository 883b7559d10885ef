"""Seeded preference data of the nano world: pictures, which of two is better under an instruction, and why.

The label of a pair depends on the instruction: *alignment* looks at the prompt only, and so does *exactness*, which
wants nothing else in the picture; *aesthetics* and *structure* look at the picture only, and *overall* at the prompt
first and at the picture where the prompt does not decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Final

import numpy as np

from ..rewards.instructions import PRESETS
from .render import CLEAN, Degradation, render, sample_degradation
from .scenes import (
    COLOURS,
    HELD_OUT,
    IMAGE_SIZE,
    RELATIONS,
    SHAPES,
    SMALLEST_RADIUS,
    Grade,
    ObjectSpec,
    PromptKind,
    PromptSpec,
    Scene,
    SceneObject,
    SeenObject,
    grade,
    sample_prompt,
    sample_scene,
    sample_scene_for,
    shade,
)

INSTRUCTIONS: Final = ("alignment", "exactness", "aesthetics", "structure", "overall")
GROUP: Final = 6
"""Pictures for one prompt."""
LOOKS: Final = 0.2
"""Share of statements that are about flaws."""
ATTEMPTS: Final = 20
"""How often a statement is sought that is true of some pictures and not of others."""
MARGIN: Final = 0.2
"""Two pictures whose quality differs by less than this are a tie."""

FLAWLESS: Final = ("sharp", "clean", "vivid", "whole")
FLAWED: Final = ("blurry", "noisy", "pale", "broken")
VISIBLE: Final = 0.2
"""A flaw of at least this severity is called by its name."""


@dataclass(frozen=True)
class Picture:
    """Pixels with the truth about them.

    Attributes:
        pixels: uint8 [64, 64, 3] RGB.
        objects: what it shows.
        degradation: what is wrong with it.
    """

    pixels: np.ndarray
    objects: tuple[SeenObject, ...]
    degradation: Degradation = CLEAN

    @classmethod
    def of(cls, scene: Scene, degradation: Degradation, rng: np.random.Generator) -> Picture:
        return cls(render(scene, degradation, rng), scene.objects, degradation)


@dataclass(frozen=True)
class Marks:
    """What the instructions look at: the grade against the prompt, and the two sides of quality, each in [0, 1]."""

    grade: Grade
    aesthetics: float
    structure: float


def marks(picture: Picture, spec: PromptSpec) -> Marks:
    """The truth about a picture that was to show `spec`."""
    return Marks(grade(spec, picture.objects), picture.degradation.aesthetics, picture.degradation.structure)


def preferred(instruction: str, candidate: Marks, reference: Marks) -> bool | None:
    """Whether the candidate is better than the reference under an instruction; None for a tie."""
    alignment = candidate.grade.score - reference.grade.score
    aesthetics = candidate.aesthetics - reference.aesthetics
    structure = candidate.structure - reference.structure
    match instruction:
        case "alignment":
            difference, margin = alignment, 0.0
        case "exactness":
            difference, margin = candidate.grade.exactness - reference.grade.exactness, 0.0
        case "aesthetics":
            difference, margin = aesthetics, MARGIN
        case "structure":
            difference, margin = structure, MARGIN
        case "overall" if alignment:
            difference, margin = alignment, 0.0
        case "overall":
            quality = candidate.aesthetics * candidate.structure
            difference, margin = quality - reference.aesthetics * reference.structure, MARGIN
        case _:
            raise ValueError(f"the nano world knows the instructions {', '.join(INSTRUCTIONS)}, not {instruction!r}")
    return None if abs(difference) <= margin else difference > 0


def good(instruction: str, marked: Marks) -> bool:
    """Whether a picture on its own is good under an instruction: correct, or free of visible flaws, or both."""
    looks, whole = marked.aesthetics > 1 - MARGIN, marked.structure > 1 - MARGIN
    return {
        "alignment": marked.grade.correct,
        "exactness": marked.grade.exact,
        "aesthetics": looks,
        "structure": whole,
        "overall": marked.grade.correct and looks and whole,
    }[instruction]


def flaws(degradation: Degradation) -> tuple[bool, ...]:
    """Which of blur, noise, washout and breakage are visible."""
    return tuple(value >= VISIBLE for value in astuple(degradation))


def caption(picture: Picture) -> str:
    """All there is to say of a picture: its objects from left to right, then its flaws."""
    rows = ("top", "middle", "bottom")
    named = [
        f"{item.colour} {item.shape} {rows[min(2, int(3 * item.y / IMAGE_SIZE))]}"
        for item in sorted(picture.objects, key=lambda item: item.x)
    ]
    words = [
        bad if flaw else fine for flaw, bad, fine in zip(flaws(picture.degradation), FLAWED, FLAWLESS, strict=True)
    ]
    return f"{', '.join(named)}; {', '.join(words)}."


def statements(rng: np.random.Generator, picture: Picture, count: int, looks: float = LOOKS) -> list[tuple[str, bool]]:
    """Short statements about a picture, about as many true as false: what prompts can require, and its looks.

    Args:
        rng: draws them.
        picture: what they are about.
        count: how many.
        looks: share of those about flaws.
    """
    found = (_stated_of_all(rng, [picture], looks) for _ in range(count))
    return [(statement, true) for statement, (true,) in found]


def asked_of_all(
    rng: np.random.Generator, pictures: Sequence[Picture], looks: float = LOOKS
) -> tuple[str, tuple[bool, ...]]:
    """A short statement, and of which of several pictures it is true: of some of them, if one like that is found.

    Args:
        rng: draws it.
        pictures: what it is about.
        looks: how often it is about flaws.
    """
    for _ in range(ATTEMPTS):
        statement, true = _stated_of_all(rng, pictures, looks)
        if 0 < sum(true) < len(pictures):
            break
    return statement, true


def _stated_of_all(rng: np.random.Generator, pictures: Sequence[Picture], looks: float) -> tuple[str, tuple[bool, ...]]:
    if rng.random() < looks:
        index, named_flaw = int(rng.integers(4)), bool(rng.random() < 0.5)
        words = FLAWED if named_flaw else FLAWLESS
        return words[index], tuple(flaws(picture.degradation)[index] == named_flaw for picture in pictures)
    spec = _spec_for_statement(rng, pictures[int(rng.integers(len(pictures)))])
    grades = [grade(spec, picture.objects) for picture in pictures]
    if rng.random() < 0.4:
        return spec.text, tuple(graded.correct for graded in grades)
    number = int(rng.integers(len(grades[0].checks)))
    checks = [graded.checks[number] for graded in grades]
    return checks[0].requirement, tuple(check.met for check in checks)


def _spec_for_statement(rng: np.random.Generator, picture: Picture) -> PromptSpec:
    return spec_about(rng, picture) if picture.objects and rng.random() < 0.75 else sample_prompt(rng)


def spec_about(rng: np.random.Generator, picture: Picture) -> PromptSpec:
    """A prompt that one or two of the picture's objects satisfy, or nearly do: their colours may be exchanged."""
    items = [picture.objects[int(index)] for index in rng.permutation(len(picture.objects))[:2]]
    first, other = items[0], items[-1]
    number = sum(item.shape == first.shape for item in picture.objects)
    kind = int(rng.integers(4))
    if kind == 0:
        return PromptSpec("counting", (ObjectSpec(first.shape, count=min(4, max(2, number))),))
    if kind == 1 and other.shape != first.shape:
        relation = RELATIONS[int(rng.integers(4))]
        return PromptSpec("position", (ObjectSpec(first.shape), ObjectSpec(other.shape)), relation)
    exchanged = rng.random() < 0.4 and not HELD_OUT & {(other.colour, first.shape), (first.colour, other.shape)}
    colours = (other.colour, first.colour) if exchanged else (first.colour, other.colour)
    if kind == 2 and other.shape != first.shape:
        objects = ObjectSpec(first.shape, colours[0]), ObjectSpec(other.shape, colours[1])
        return PromptSpec("colour_attribution", objects)
    return PromptSpec("colours", (ObjectSpec(first.shape, colours[0]),))


def _tally(instruction: str, picture: Picture, marked: Marks) -> list[tuple[str, str]]:
    """Per criterion that the instruction covers: its name and 'met of all' (of exactness, 'asked for of shown')."""
    flawed = flaws(picture.degradation)
    checks, asked, shown = marked.grade.checks, marked.grade.asked, marked.grade.shown
    lines = {
        "Alignment": f"{sum(check.met for check in checks)} of {len(checks)}",
        "Exactness": f"{min(asked, shown)} of {shown}",
        "Aesthetics": f"{3 - sum(flawed[:3])} of 3",
        "Structure": f"{1 - flawed[3]} of 1",
    }
    wanted = [name.capitalize() for name in PRESETS[instruction].criteria]
    return [(name, text) for name, text in lines.items() if name in wanted]


def rationale(instruction: str, spec: PromptSpec, candidate: Picture, reference: Picture | None) -> str:
    """The chain of thought a teacher would write before the verdict: what is seen, then how the criteria come out."""
    tally = _tally(instruction, candidate, marks(candidate, spec))
    if reference is None:
        return f"Candidate: {caption(candidate)}" + "".join(f" {name}: {text}." for name, text in tally)
    other = _tally(instruction, reference, marks(reference, spec))
    found = "".join(
        f" {name}: candidate {mine}, reference {theirs}."
        for (name, mine), (_, theirs) in zip(tally, other, strict=True)
    )
    return f"Candidate: {caption(candidate)} Reference: {caption(reference)}{found}"


def misseen(rng: np.random.Generator, picture: Picture) -> Picture:
    """What a hasty eye makes of a picture: one object or one flaw is taken for another, or not seen at all."""
    flawed = flaws(picture.degradation)
    if not picture.objects or rng.random() < 0.2:
        index = int(rng.integers(len(flawed)))
        severities = list(astuple(picture.degradation))
        severities[index] = 0.0 if flawed[index] else 2 * VISIBLE
        return replace(picture, degradation=Degradation(*severities))
    index = int(rng.integers(len(picture.objects)))
    seen = picture.objects[index]
    match int(rng.integers(4)):
        case 0:
            taken: tuple[SeenObject, ...] = (replace(seen, colour=_other(rng, tuple(COLOURS), seen.colour)),)
        case 1:
            taken = (replace(seen, shape=_other(rng, SHAPES, seen.shape)),)
        case 2:
            taken = (replace(seen, y=(seen.y + IMAGE_SIZE / 3) % IMAGE_SIZE),)
        case _:
            taken = ()
    return replace(picture, objects=(*picture.objects[:index], *taken, *picture.objects[index + 1 :]))


def _other(rng: np.random.Generator, names: Sequence[str], name: str) -> str:
    options = [other for other in names if other != name]
    return options[int(rng.integers(len(options)))]


def edit_scene(rng: np.random.Generator, spec: PromptSpec, scene: Scene) -> Scene:
    """Change one attribute of one object (or swap two objects' places) so that the scene no longer satisfies `spec`.

    Where no single change can do that (two stars, and one was asked for), changes add up until it no longer does.
    """
    attempts = 0
    while True:
        edited = _edited_once(rng, spec, scene)
        if not grade(spec, edited.objects).correct:
            return edited
        attempts += 1
        if attempts > 30:
            scene = edited


def _edited_once(rng: np.random.Generator, spec: PromptSpec, scene: Scene) -> Scene:
    objects = scene.objects
    index = int(rng.integers(len(objects)))
    several = len(objects) > 1
    kinds = ["repaint", "reshape"] + ["drop", "swap"] * several + ["add"] * (len(objects) < 4)
    match kinds[int(rng.integers(len(kinds)))]:
        case "repaint":
            edited = _replaced(objects, index, _repainted(rng, objects[index]))
        case "reshape":
            edited = _replaced(objects, index, _reshaped(rng, objects[index]))
        case "drop":
            edited = (*objects[:index], *objects[index + 1 :])
        case "swap":
            edited = _swapped(objects, index, (index + 1) % len(objects))
        case _:
            edited = (*objects, *_room_for_one(rng, spec.objects[0].shape, objects))
    return replace(scene, objects=edited)


def _room_for_one(rng: np.random.Generator, shape: str, objects: tuple[SceneObject, ...]) -> tuple[SceneObject, ...]:
    """An object more, where there is room for it beside the others; none where there is not."""
    radius = SMALLEST_RADIUS
    for _ in range(60):
        x, y = (float(value) for value in rng.uniform(radius + 2, IMAGE_SIZE - radius - 2, 2))
        if all(np.hypot(x - item.x, y - item.y) > radius + item.radius + 2.5 for item in objects):
            colour = _open_colour(rng, shape)
            return (SceneObject(shape, colour, x, y, radius, shade(rng, colour), float(rng.uniform(-10, 10))),)
    return ()


def _open_colour(rng: np.random.Generator, shape: str, other_than: str = "") -> str:
    options = [name for name in COLOURS if (name, shape) not in HELD_OUT and name != other_than]
    return options[int(rng.integers(len(options)))]


def _repainted(rng: np.random.Generator, item: SceneObject) -> SceneObject:
    colour = _open_colour(rng, item.shape, item.colour)
    return replace(item, colour=colour, rgb=shade(rng, colour))


def _reshaped(rng: np.random.Generator, item: SceneObject) -> SceneObject:
    options = [name for name in SHAPES if name != item.shape and (item.colour, name) not in HELD_OUT]
    return replace(item, shape=options[int(rng.integers(len(options)))])


def _replaced(objects: tuple[SceneObject, ...], index: int, item: SceneObject) -> tuple[SceneObject, ...]:
    return (*objects[:index], item, *objects[index + 1 :])


def _swapped(objects: tuple[SceneObject, ...], first: int, second: int) -> tuple[SceneObject, ...]:
    a, b = objects[first], objects[second]
    moved = _replaced(objects, first, replace(a, x=b.x, y=b.y, radius=b.radius))
    return _replaced(moved, second, replace(b, x=a.x, y=a.y, radius=a.radius))


def maybe_degraded(rng: np.random.Generator, share: float) -> Degradation:
    """Clean, or with probability `share` one or two flaws."""
    return sample_degradation(rng, int(rng.integers(1, 3))) if rng.random() < share else CLEAN


@dataclass(frozen=True)
class Group:
    """Pictures that were all to show one prompt: some right, some wrong, some bad.

    Of `generated` pictures only what they show is known, not how good they are.
    """

    spec: PromptSpec
    pictures: tuple[Picture, ...]
    generated: bool = False


def sample_group(rng: np.random.Generator, held_out: bool = False, kind: PromptKind | None = None) -> Group:
    """Six pictures for one prompt: two right, those two with one attribute changed, one related and one unrelated."""
    spec = sample_prompt(rng, kind, held_out)
    right = [sample_scene_for(rng, spec) for _ in range(2)]
    near = [edit_scene(rng, spec, scene) for scene in right]
    related = sample_scene_for(rng, sample_prompt(rng, spec.kind, held_out))
    scenes = [*right, *near, related, sample_scene(rng)]
    return Group(spec, tuple(Picture.of(scene, maybe_degraded(rng, 0.45), rng) for scene in scenes))


@dataclass(frozen=True)
class Pair:
    """A labelled comparison."""

    instruction: str
    spec: PromptSpec
    candidate: Picture
    reference: Picture
    better: bool


def sample_pairs(rng: np.random.Generator, held_out: bool = False, instruction: str | None = None) -> Iterator[Pair]:
    """An endless stream of independent pairs, one to a group, ties left out."""
    while True:
        group = sample_group(rng, held_out)
        name = instruction or INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        first, second = (group.pictures[index] for index in rng.choice(len(group.pictures), 2, replace=False))
        better = preferred(name, marks(first, group.spec), marks(second, group.spec))
        if better is not None:
            yield Pair(name, group.spec, first, second, better)


def sample_minimal_pairs(rng: np.random.Generator, held_out: bool = False) -> Iterator[Pair]:
    """Pairs that differ in one attribute: a right picture against the same one edited, judged by alignment."""
    while True:
        spec = sample_prompt(rng, held_out=held_out)
        scene = sample_scene_for(rng, spec)
        degradation = maybe_degraded(rng, 0.2)
        pictures = [Picture.of(item, degradation, rng) for item in (scene, edit_scene(rng, spec, scene))]
        better = bool(rng.random() < 0.5)
        candidate, reference = pictures if better else pictures[::-1]
        yield Pair("alignment", spec, candidate, reference, better)


def sample_conflicts(rng: np.random.Generator) -> Iterator[Pair]:
    """Pairs in which alignment and quality disagree: a right but flawed picture against a wrong but clean one.

    The same two pictures come twice in a row, once judged by alignment and once by aesthetics or structure.
    """
    while True:
        spec = sample_prompt(rng)
        scene = sample_scene_for(rng, spec)
        right = Picture.of(scene, sample_degradation(rng, 1), rng)
        wrong = Picture.of(edit_scene(rng, spec, scene), CLEAN, rng)
        by_quality = "structure" if right.degradation.breakage else "aesthetics"
        right_first = bool(rng.random() < 0.5)
        candidate, reference = (right, wrong) if right_first else (wrong, right)
        yield Pair("alignment", spec, candidate, reference, right_first)
        yield Pair(by_quality, spec, candidate, reference, not right_first)
