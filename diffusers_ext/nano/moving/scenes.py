"""The truth of the nano moving world: what a video shows, what a prompt asks, and whether the two agree.

Everything here is symbolic. :mod:`~diffusers_ext.nano.moving.render` turns a :class:`MovingScene` into frames, and
:mod:`~diffusers_ext.nano.moving.oracle` recovers :class:`Track` records from frames; both ends meet in :func:`grade`.

Objects, colours and held-out combinations are those of the still world (:mod:`~diffusers_ext.nano.scenes`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast, get_args

import numpy as np

from .. import scenes as still
from ..scenes import (
    COLOURS,
    HELD_OUT,
    IMAGE_SIZE,
    SHAPES,
    SMALLEST_RADIUS,
    Check,
    Grade,
    ObjectSpec,
    PromptError,
    PromptSpec,
    Scene,
    SceneObject,
    SeenObject,
)

FRAMES: Final = 8
"""Of a video."""

VideoKind = Literal["direction", "speed", "still", "two_objects"]
Direction = Literal["left", "right", "up", "down"]
Speed = Literal["slowly", "fast"]
Pace = Literal["still", "slowly", "fast"]
Velocity = tuple[float, float]
"""Pixels per frame; y grows downwards."""

VIDEO_KINDS: Final[tuple[VideoKind, ...]] = get_args(VideoKind)
DIRECTIONS: Final[dict[Direction, Velocity]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
SPEEDS: Final[dict[Speed, tuple[float, float]]] = {"slowly": (0.9, 1.5), "fast": (3.0, 3.8)}
"""Lowest and highest, in pixels per frame."""
STILL_BELOW: Final = 0.45
FAST_ABOVE: Final = 2.25
LARGEST_RADIUS: Final = 10.0
"""Of a moving object, in pixels: one that crosses the picture needs room to do so."""


def pace(velocity: Velocity) -> Pace:
    """How fast a velocity is; the speeds drawn lie well away from the bounds."""
    speed = float(np.hypot(*velocity))
    return "still" if speed < STILL_BELOW else "slowly" if speed < FAST_ABOVE else "fast"


def heading(velocity: Velocity) -> Direction | None:
    """Where a velocity leads; None for one that stands still or goes aslant."""
    if pace(velocity) == "still":
        return None
    direction = max(DIRECTIONS, key=lambda name: float(np.dot(velocity, DIRECTIONS[name])))
    return direction if np.dot(velocity, DIRECTIONS[direction]) > 0.85 * np.hypot(*velocity) else None


@dataclass(frozen=True)
class Movement:
    """How an object is to move; with no direction it is to stand still, with no speed any will do."""

    direction: Direction | None = None
    speed: Speed | None = None

    def fits(self, velocity: Velocity) -> bool:
        """Whether a velocity is what was asked for."""
        return heading(velocity) == self.direction and self.paced(pace(velocity))

    def paced(self, seen: Pace) -> bool:
        """Whether a pace is as strong as was asked, wherever it leads."""
        if self.direction is None:
            return seen == "still"
        return seen != "still" and self.speed in (None, seen)

    @property
    def phrase(self) -> str:
        if self.direction is None:
            return "standing still"
        return f"moving {self.direction}" + (f" {self.speed}" if self.speed else "")


@dataclass(frozen=True)
class MovingSpec:
    """What a prompt asks of one object."""

    object: ObjectSpec
    movement: Movement

    @property
    def phrase(self) -> str:
        return f"{self.object.phrase} {self.movement.phrase}"


@dataclass(frozen=True)
class VideoSpec:
    """A prompt in symbols: what is asked of one or two objects."""

    objects: tuple[MovingSpec, ...]

    @property
    def kind(self) -> VideoKind:
        if len(self.objects) > 1:
            return "two_objects"
        (asked,) = self.objects
        return "still" if asked.movement.direction is None else "speed" if asked.movement.speed else "direction"

    @property
    def text(self) -> str:
        return "a video of " + " and ".join(spec.phrase for spec in self.objects)

    @property
    def still(self) -> PromptSpec:
        """What any one frame is to show."""
        wanted = tuple(spec.object for spec in self.objects)
        coloured = any(item.colour for item in wanted)
        if len(wanted) == 1:
            return PromptSpec("colours" if coloured else "single_object", wanted)
        return PromptSpec("colour_attribution" if coloured else "two_objects", wanted)

    @property
    def is_held_out(self) -> bool:
        """Whether it names a (colour, shape) combination that training never saw."""
        return self.still.is_held_out


@dataclass(frozen=True)
class Track:
    """One object over a whole video.

    Attributes:
        sightings: what is seen of it in each frame; None where it is not seen.
        velocity: of its motion, in pixels per frame: until it stops where it stops half-way, and leaving out a jump.
    """

    sightings: tuple[SeenObject | None, ...]
    velocity: Velocity

    @property
    def seen(self) -> tuple[SeenObject, ...]:
        """The frames in which it is seen."""
        return tuple(item for item in self.sightings if item is not None)

    @property
    def first(self) -> SeenObject:
        return self.seen[0]

    @property
    def name(self) -> tuple[str, str]:
        """The (colour, shape) that it has in most frames; of two that are even, the earlier."""
        return Counter((item.colour, item.shape) for item in self.seen).most_common(1)[0][0]

    def share(self, spec: ObjectSpec) -> float:
        """In which share of all frames it fits, in [0, 1]."""
        return sum(spec.fits(item) for item in self.seen) / len(self.sightings)

    def is_a(self, spec: ObjectSpec) -> bool:
        """Whether it fits in most frames."""
        colour, shape = self.name
        return shape == spec.shape and spec.colour in (None, colour)


def grade(spec: VideoSpec, tracks: Sequence[Track]) -> Grade:
    """Check what is seen against what was asked. Objects that were not asked for do no harm (as in GenEval)."""
    checks: list[Check] = []
    for wanted in spec.objects:
        shape = ObjectSpec(wanted.object.shape)
        checks.append(Check(shape.phrase, max((track.share(shape) for track in tracks), default=0.0)))
        if wanted.object.colour is not None:
            checks.append(
                Check(wanted.object.phrase, max((track.share(wanted.object) for track in tracks), default=0.0))
            )
        found = [track for track in tracks if track.is_a(wanted.object)]
        bare = Movement(wanted.movement.direction)
        moves = any(bare.fits(track.velocity) for track in found)
        checks.append(Check(MovingSpec(wanted.object, bare).phrase, float(moves)))
        if wanted.movement.speed is not None:
            moves = any(wanted.movement.fits(track.velocity) for track in found)
            checks.append(Check(wanted.phrase, float(moves)))
    return Grade(tuple(checks))


def strength(spec: VideoSpec, tracks: Sequence[Track]) -> float:
    """Whether things move as strongly as was asked, whatever they are and wherever they go: a share in [0, 1]."""
    paces = [pace(track.velocity) for track in tracks]
    return float(np.mean([any(wanted.movement.paced(seen) for seen in paces) for wanted in spec.objects]))


def fidelity(objects: Sequence[SeenObject], tracks: Sequence[Track], same_style: bool) -> Grade:
    """How faithfully a video keeps a given first frame.

    Args:
        objects: what the given frame shows.
        tracks: what the video shows.
        same_style: whether the video has the looks of the given frame, such as its sharpness.
    """
    starts = [item for track in tracks if (item := track.sightings[0]) is not None]
    checks: list[Check] = []
    for given in objects:
        spec = ObjectSpec(given.shape, given.colour)
        checks.append(Check(f"{spec.phrase} kept", max((track.share(spec) for track in tracks), default=0.0)))
        there = any(
            spec.fits(item)
            and np.hypot(item.x - given.x, item.y - given.y) <= 3.0
            and abs(np.log(item.radius / given.radius)) <= 0.2
            for item in starts
        )
        checks.append(Check(f"{spec.phrase} in its place", float(there)))
    checks.append(Check("nothing else", float(len(starts) <= len(objects))))
    checks.append(Check("the same style", float(same_style)))
    return Grade(tuple(checks))


_OBJECT = (
    rf"(?:a|an) (?:(?P<colour{{0}}>{'|'.join(COLOURS)}) )?(?P<shape{{0}}>{'|'.join(SHAPES)}) "
    rf"(?:standing still|moving (?P<direction{{0}}>{'|'.join(DIRECTIONS)})(?: (?P<speed{{0}}>{'|'.join(SPEEDS)}))?)"
)
_PROMPT = re.compile(rf"a video of {_OBJECT.format(1)}(?: and {_OBJECT.format(2)})?\.?")


def parse_prompt(text: str) -> VideoSpec:
    """Read a prompt of the nano moving world back into symbols.

    Raises:
        PromptError: the text is outside the grammar; the message lists the forms it may take.
    """
    match = _PROMPT.fullmatch(" ".join(text.lower().split()))
    if match is None:
        raise PromptError(
            f"{text!r} is not a prompt of the nano moving world. It understands, for example: "
            "'a video of a red star moving left', 'a video of a blue circle moving up fast', "
            "'a video of a green square standing still', "
            "'a video of a red star moving left and a blue circle moving down slowly'; "
            f"colours: {', '.join(COLOURS)}; shapes: {', '.join(SHAPES)}; directions: {', '.join(DIRECTIONS)}; "
            f"speeds: {', '.join(SPEEDS)}."
        )
    first, second = _moving(match, 1), _moving(match, 2) if match["shape2"] else None
    if second is None:
        return VideoSpec((first,))
    colours = {first.object.colour, second.object.colour}
    if first.object.shape == second.object.shape and (len(colours) == 1 or None in colours):
        raise PromptError(
            f"{text!r} names one object twice, so it does not say which of the two is to move how; "
            "give them two colours or two shapes"
        )
    return VideoSpec((first, second))


def _moving(match: re.Match[str], number: int) -> MovingSpec:
    colour, shape, direction, speed = (match[f"{part}{number}"] for part in ("colour", "shape", "direction", "speed"))
    return MovingSpec(ObjectSpec(shape, colour), Movement(cast("Direction | None", direction), cast(Speed, speed)))


def sample_movement(rng: np.random.Generator, moves: float = 0.8, named: float = 0.5) -> Movement:
    """A movement; with probability `moves` it has a direction, and then with probability `named` a speed."""
    if rng.random() >= moves:
        return Movement()
    direction = list(DIRECTIONS)[int(rng.integers(len(DIRECTIONS)))]
    return Movement(direction, list(SPEEDS)[int(rng.integers(len(SPEEDS)))] if rng.random() < named else None)


def sample_prompt(rng: np.random.Generator, kind: VideoKind | None = None, held_out: bool = False) -> VideoSpec:
    """Draw a prompt; with `held_out` it names a held-out combination."""
    kind = kind or VIDEO_KINDS[int(rng.integers(len(VIDEO_KINDS)))]
    if kind == "two_objects":
        first, second = still.sample_prompt(rng, "colour_attribution", held_out).objects
        movements = [sample_movement(rng, 1.0, 0.4), sample_movement(rng, 0.75, 0.4)]
        a, b = (movements[int(index)] for index in rng.permutation(2))
        return VideoSpec((MovingSpec(first, a), MovingSpec(second, b)))
    coloured = held_out or rng.random() < 0.8
    (wanted,) = still.sample_prompt(rng, "colours" if coloured else "single_object", held_out).objects
    movement = sample_movement(rng, 0.0 if kind == "still" else 1.0, float(kind == "speed"))
    return VideoSpec((MovingSpec(wanted, movement),))


@dataclass(frozen=True)
class MovingScene:
    """Objects where they are in the first frame, each with its constant velocity."""

    objects: tuple[SceneObject, ...]
    velocities: tuple[Velocity, ...]
    background: tuple[int, int, int]

    def at(self, time: float) -> Scene:
        """The scene `time` frames after the first."""
        moved = zip(self.objects, self.velocities, strict=True)
        return Scene(
            tuple(replace(item, x=item.x + time * vx, y=item.y + time * vy) for item, (vx, vy) in moved),
            self.background,
        )

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What there is to see of it."""
        frames = [self.at(time).objects for time in range(FRAMES)]
        return tuple(Track(path, v) for path, v in zip(zip(*frames, strict=True), self.velocities, strict=True))

    @property
    def reversed(self) -> MovingScene:
        """The same video played backwards."""
        back = tuple((-vx, -vy) for vx, vy in self.velocities)
        return replace(self, objects=self.at(FRAMES - 1).objects, velocities=back)


def free(scene: Scene) -> bool:
    """Whether every object lies inside the picture and none touches another."""
    items = scene.objects
    inside = all(item.radius + 1.9 <= c <= IMAGE_SIZE - item.radius - 1.9 for item in items for c in (item.x, item.y))
    return inside and all(
        np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + 2.5
        for index, a in enumerate(items)
        for b in items[:index]
    )


def runs_free(scene: MovingScene) -> bool:
    """Whether that is so in every frame."""
    return all(free(scene.at(time)) for time in range(FRAMES))


def sample_velocity(rng: np.random.Generator, movement: Movement) -> Velocity:
    """A velocity that fits a movement."""
    if movement.direction is None:
        return 0.0, 0.0
    speed = float(rng.uniform(*SPEEDS[movement.speed or list(SPEEDS)[int(rng.integers(len(SPEEDS)))]]))
    x, y = DIRECTIONS[movement.direction]
    return speed * x, speed * y


def place(rng: np.random.Generator, scene: MovingScene) -> MovingScene:
    """The same objects and motions at other sizes and places, none touching another or the border in any frame."""
    while True:
        placed: list[SceneObject] = []
        for item, (vx, vy) in zip(scene.objects, scene.velocities, strict=True):
            radius = float(rng.uniform(SMALLEST_RADIUS, LARGEST_RADIUS if len(scene.objects) == 1 else 9.0))
            x, y = (
                float(rng.uniform(radius + 2 - min(0.0, way), IMAGE_SIZE - radius - 2 - max(0.0, way)))
                for way in ((FRAMES - 1) * vx, (FRAMES - 1) * vy)
            )
            placed.append(replace(item, x=x, y=y, radius=radius))
        found = replace(scene, objects=tuple(placed))
        if runs_free(found):
            return found


def sample_scene_for(rng: np.random.Generator, spec: VideoSpec, extra: float = 0.15) -> MovingScene:
    """A random scene that satisfies `spec`; with probability `extra` it holds one object more than was asked.

    Colours and speeds that the prompt leaves open are drawn. Neither such colours nor extra objects are held out of
    training, and no extra object is one that the prompt names.
    """
    wanted = spec.still.objects
    while True:
        drawn = still.sample_scene_for(rng, spec.still, extra if len(wanted) == 1 else 0.0)
        others = drawn.objects[len(wanted) :]
        if not any(asked.fits(item) for asked in wanted for item in others):
            break
    movements = [asked.movement for asked in spec.objects] + [sample_movement(rng) for _ in others]
    velocities = tuple(sample_velocity(rng, movement) for movement in movements)
    return place(rng, MovingScene(drawn.objects, velocities, drawn.background))


def edit_motion(rng: np.random.Generator, spec: VideoSpec, scene: MovingScene) -> MovingScene:
    """Change how one object moves, and nothing else, so that the scene no longer satisfies `spec`.

    It is played backwards, or one object goes elsewhere, at the other speed, stops or begins to move. It starts where
    it was wherever there is room for that; otherwise objects are placed anew.
    """
    while True:
        index = int(rng.integers(len(spec.objects)))
        if rng.random() < 0.25:
            edited = scene.reversed
        else:
            velocities = list(scene.velocities)
            velocities[index] = _other_velocity(rng, velocities[index])
            edited = replace(scene, velocities=tuple(velocities))
        if grade(spec, edited.tracks).correct:
            continue
        return edited if runs_free(edited) else place(rng, edited)


def _other_velocity(rng: np.random.Generator, velocity: Velocity) -> Velocity:
    direction, seen = heading(velocity), pace(velocity)
    if direction is None:
        return sample_velocity(rng, sample_movement(rng, moves=1.0))
    match int(rng.integers(4)):
        case 0:
            return 0.0, 0.0
        case 1:
            return sample_velocity(rng, Movement(direction, "slowly" if seen == "fast" else "fast"))
        case _:
            others = [name for name in DIRECTIONS if name != direction]
            speed, (x, y) = np.hypot(*velocity), DIRECTIONS[others[int(rng.integers(3))]]
            return float(speed * x), float(speed * y)


def edit_object(rng: np.random.Generator, spec: VideoSpec, scene: MovingScene) -> MovingScene:
    """Repaint or reshape one object, which moves as before, so that the scene no longer satisfies `spec`."""
    while True:
        index = int(rng.integers(len(scene.objects)))
        old = scene.objects[index]
        options = [(colour, old.shape) for colour in COLOURS] + [(old.colour, shape) for shape in SHAPES]
        options = [item for item in options if item != (old.colour, old.shape) and item not in HELD_OUT]
        new = renamed(rng, old, *options[int(rng.integers(len(options)))])
        edited = replace(scene, objects=(*scene.objects[:index], new, *scene.objects[index + 1 :]))
        if not grade(spec, edited.tracks).correct:
            return edited


def renamed(rng: np.random.Generator, item: SceneObject, colour: str, shape: str) -> SceneObject:
    """An object with another colour or shape; its shade is drawn anew only where its colour is another."""
    rgb = item.rgb if colour == item.colour else still.shade(rng, colour)
    return replace(item, colour=colour, shape=shape, rgb=rgb)
