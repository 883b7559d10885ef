"""Moving scenes to frames, and the ways in which motion can be bad."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Final

import numpy as np

from ..preferences import Picture
from ..render import CLEAN, Degradation, render
from ..scenes import COLOURS, HELD_OUT, IMAGE_SIZE, SHAPES, Scene, SceneObject
from .scenes import FRAMES, MovingScene, Track, free, pace, renamed

FLICKER: Final = 0.35
"""Of the logarithm of brightness, at full severity."""
JITTER: Final = 3.0
"""Standard deviation of places at full severity, in pixels."""
SHORTEST_JUMP: Final = 10.0
"""In pixels."""
TRIES: Final = 60


@dataclass(frozen=True)
class MotionFlaws:
    """How badly a video moves, each flaw from 0 (not at all) to 1 (severely).

    Attributes:
        flicker: brightness that jumps between frames, up to 35% either way.
        jitter: noise on the places of objects after the first frame, up to a standard deviation of 3 px.
        freeze: 1 where everything stops half-way.
        jump: 1 where an object is suddenly elsewhere and goes on from there.
        change: 1 where an object suddenly has another colour or shape.
    """

    flicker: float = 0.0
    jitter: float = 0.0
    freeze: float = 0.0
    jump: float = 0.0
    change: float = 0.0

    @property
    def smoothness(self) -> float:
        """How good the motion looks, in [0, 1]."""
        return float(np.prod([1 - 0.9 * value for value in astuple(self)]))


SMOOTH: Final = MotionFlaws()


def sample_flaws(rng: np.random.Generator, scene: MovingScene, count: int | None = None) -> MotionFlaws:
    """`count` flaws (one or two when None) that the scene can show: one in which nothing moves cannot stop."""
    moves = any(pace(velocity) != "still" for velocity in scene.velocities)
    options = [index for index in range(5) if moves or index != 2]
    severities = np.zeros(5)
    chosen = rng.choice(options, count or int(rng.integers(1, 3)), replace=False)
    severities[chosen] = [float(rng.uniform(0.4, 1.0)) if index < 2 else 1.0 for index in chosen]
    return MotionFlaws(*(float(value) for value in severities))


@dataclass(frozen=True)
class Video:
    """Frames with the truth about them.

    Attributes:
        frames: uint8 [8, 64, 64, 3] RGB.
        tracks: what they show, with the velocities that were meant.
        flaws: what is wrong with the motion.
        degradation: what is wrong with every frame.
    """

    frames: np.ndarray
    tracks: tuple[Track, ...]
    flaws: MotionFlaws = SMOOTH
    degradation: Degradation = CLEAN

    @classmethod
    def of(
        cls,
        scene: MovingScene,
        rng: np.random.Generator,
        flaws: MotionFlaws = SMOOTH,
        degradation: Degradation = CLEAN,
    ) -> Video:
        """Draw a scene. Where there is no room for an object to jump, it does not, and `flaws` says so."""
        scenes, flaws = animate(scene, rng, flaws)
        paths = zip(*(frame.objects for frame in scenes), strict=True)
        tracks = tuple(Track(path, v) for path, v in zip(paths, scene.velocities, strict=True))
        return cls(render_frames(scenes, rng, flaws.flicker, degradation), tracks, flaws, degradation)

    def picture(self, frame: int) -> Picture:
        """One frame with what it shows."""
        seen = tuple(item for track in self.tracks if (item := track.sightings[frame]) is not None)
        return Picture(self.frames[frame], seen, self.degradation)


def animate(
    scene: MovingScene, rng: np.random.Generator, flaws: MotionFlaws = SMOOTH
) -> tuple[tuple[Scene, ...], MotionFlaws]:
    """A scene frame by frame, with its flaws of place and identity, and the flaws: less a jump that has no room."""
    stop = int(rng.integers(3, 5)) if flaws.freeze else FRAMES
    frames = [scene.at(min(time, stop)) for time in range(FRAMES)]
    if flaws.jump:
        jumped = _jumped(rng, frames)
        frames, flaws = jumped or frames, replace(flaws, jump=float(jumped is not None))
    if flaws.change:
        frames = _changed(rng, frames)
    if flaws.jitter:
        frames[1:] = [_shaken(rng, frame, JITTER * flaws.jitter) for frame in frames[1:]]
    return tuple(frames), flaws


def _jumped(rng: np.random.Generator, frames: list[Scene]) -> list[Scene] | None:
    """Half-way one object is shifted by a good distance; None where there is no room for that."""
    index, start = int(rng.integers(len(frames[0].objects))), int(rng.integers(3, 6))
    for _ in range(TRIES):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(SHORTEST_JUMP, 2 * SHORTEST_JUMP)
        dx, dy = float(length * np.cos(angle)), float(length * np.sin(angle))
        moved = [_shifted(frame, index, dx, dy) if time >= start else frame for time, frame in enumerate(frames)]
        if all(free(frame) for frame in moved):
            return moved
    return None


def _shifted(frame: Scene, index: int, dx: float, dy: float) -> Scene:
    item = frame.objects[index]
    return _with(frame, index, replace(item, x=item.x + dx, y=item.y + dy))


def _changed(rng: np.random.Generator, frames: list[Scene]) -> list[Scene]:
    """Half-way one object gets another colour or another shape."""
    index, start = int(rng.integers(len(frames[0].objects))), int(rng.integers(3, 6))
    old = frames[0].objects[index]
    by_colour = [(colour, old.shape) for colour in COLOURS if colour != old.colour]
    by_shape = [(old.colour, shape) for shape in SHAPES if shape != old.shape]
    options = [item for item in (by_colour if rng.random() < 0.5 else by_shape) if item not in HELD_OUT]
    new = renamed(rng, old, *options[int(rng.integers(len(options)))])
    return [
        _with(frame, index, replace(new, x=frame.objects[index].x, y=frame.objects[index].y))
        if time >= start
        else frame
        for time, frame in enumerate(frames)
    ]


def _shaken(rng: np.random.Generator, frame: Scene, deviation: float) -> Scene:
    """Every object off its place; where two would touch, as far as there is room for."""
    for _ in range(TRIES):
        objects: list[SceneObject] = []
        for item in frame.objects:
            low, high = item.radius + 2.0, IMAGE_SIZE - item.radius - 2.0
            x, y = np.clip(rng.normal((item.x, item.y), deviation), low, high)
            objects.append(replace(item, x=float(x), y=float(y)))
        shaken = replace(frame, objects=tuple(objects))
        if free(shaken):
            return shaken
    return frame


def _with(frame: Scene, index: int, item: SceneObject) -> Scene:
    return replace(frame, objects=(*frame.objects[:index], item, *frame.objects[index + 1 :]))


def render_frames(
    scenes: tuple[Scene, ...], rng: np.random.Generator, flicker: float = 0.0, degradation: Degradation = CLEAN
) -> np.ndarray:
    """Draw scenes one after the other, uint8 [frames, 64, 64, 3] RGB, the first at its own brightness."""
    seed = int(rng.integers(2**32))
    frames: list[np.ndarray] = []
    for time, scene in enumerate(scenes):
        # An object is broken in the same places all along; noise alone is new in every frame.
        source = np.random.default_rng(seed if degradation.breakage else (seed, time))
        frames.append(render(scene, degradation, source))
    pixels = np.stack(frames)
    if not flicker:
        return pixels
    levels = FLICKER * flicker * rng.uniform(0.5, 1.0, len(frames))
    for parity in (0, 1):
        # Half of these are darker and half brighter, so that flicker shows where every second frame is looked at.
        levels[parity::2] *= rng.permutation(np.resize((-1, 1), len(levels[parity::2])))
    gains = np.exp(levels - levels[0])[:, None, None, None]
    return np.clip(np.rint(pixels * gains), 0, 255).astype(np.uint8)
