"""The moving world's judge of last resort: classical vision on finished frames, knowing nothing of how they were made.

The still world's oracle finds the objects in every frame. They are linked from frame to frame by place and looks, and
through each one's places the simplest motion is laid that explains them: steady, steady until it stops, or steady but
for one jump. What is left over is jitter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from .. import oracle as still
from ..preferences import flaws
from ..render import Degradation
from ..scenes import Grade, SeenObject
from .render import FLICKER, JITTER, MotionFlaws
from .scenes import Track, Velocity, VideoSpec, fidelity, grade, pace, parse_prompt, strength

OTHER_LOOKS: Final = 10.0
"""What another colour, or another shape, costs in linking, in pixels of distance."""
TOO_FAR: Final = 40.0
"""What costs more is another object."""
FEWEST: Final = 3
"""An object seen in fewer frames is none: its motion cannot be told."""
SUSPICIOUS: Final = 0.3
"""A steady motion that misses the places by less than this (root mean square, in pixels) needs no other explanation."""
STEADY: Final = 0.25
"""How far measured places of steady objects may be off, in pixels (standard deviation)."""


@dataclass(frozen=True)
class VideoVerdict:
    """What the oracle makes of a video.

    Attributes:
        tracks: what it shows.
        grade: how far that meets the prompt.
        flaws: what it finds wrong with the motion.
        quality: the flaws of frames, the median over all of them.
        strength: whether things move as strongly as was asked, a share in [0, 1].
        fidelity: how far the given first frame is kept; None where none was given.
    """

    tracks: tuple[Track, ...]
    grade: Grade
    flaws: MotionFlaws
    quality: Degradation
    strength: float
    fidelity: Grade | None = None

    @property
    def correct(self) -> bool:
        """Whether every requirement of the prompt is met."""
        return self.grade.correct

    @property
    def score(self) -> float:
        """How far the requirements are met, in [0, 1]."""
        return self.grade.score


def judge(
    video: np.ndarray | Sequence[Image.Image],
    prompt: str | VideoSpec,
    first_frame: np.ndarray | Image.Image | None = None,
) -> VideoVerdict:
    """Judge a video against a prompt of the nano moving world and, if one is given, against its first frame.

    Args:
        video: uint8 [frames, 64, 64, 3] RGB, or PIL images of any size; at least three frames.
        prompt: its text or its symbols.
        first_frame: what the video was to start from: uint8 [64, 64, 3] RGB or a PIL image.

    Raises:
        PromptError: the text is not a prompt of the nano moving world.
    """
    if len(video) < FEWEST:
        raise ValueError(f"motion cannot be told from {len(video)} frames; at least {FEWEST} are needed")
    spec = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    seen = [still.judge(frame, spec.still) for frame in video]
    motions = [_explain(path) for path in _link([verdict.objects for verdict in seen])]
    tracks = tuple(motion.track for motion in motions)
    qualities = np.median([astuple(verdict.quality) for verdict in seen], axis=0)
    quality = Degradation(*(float(value) for value in qualities))
    found = MotionFlaws(
        flicker=_flicker(video),
        jitter=max((motion.jitter for motion in motions), default=0.0),
        freeze=float(any(motion.stops for motion in motions)),
        jump=float(any(motion.jumps for motion in motions)),
        change=float(any(_changes(track) for track in tracks)),
    )
    kept = _fidelity(first_frame, spec, tracks, quality) if first_frame is not None else None
    return VideoVerdict(tracks, grade(spec, tracks), found, quality, strength(spec, tracks), kept)


def _fidelity(
    first_frame: np.ndarray | Image.Image, spec: VideoSpec, tracks: tuple[Track, ...], quality: Degradation
) -> Grade:
    given = still.judge(first_frame, spec.still)
    return fidelity(given.objects, tracks, flaws(given.quality) == flaws(quality))


Path = list[SeenObject | None]


def _link(frames: Sequence[Sequence[SeenObject]]) -> list[Path]:
    """Objects followed over the frames, each frame's assigned to those before at the least cost in all."""
    paths: list[Path] = []
    for time, objects in enumerate(frames):
        last = [next(item for item in reversed(path) if item is not None) for path in paths]
        costs = np.array([[_cost(old, new) for new in objects] for old in last]).reshape(len(last), len(objects))
        chosen = {b: a for a, b in zip(*linear_sum_assignment(costs), strict=True) if costs[a, b] < TOO_FAR}
        for path in paths:
            path.append(None)
        for index, item in enumerate(objects):
            if index in chosen:
                paths[chosen[index]][-1] = item
            else:
                paths.append([*[None] * time, item])
    return [path for path in paths if sum(item is not None for item in path) >= FEWEST]


def _cost(old: SeenObject, new: SeenObject) -> float:
    others = (old.colour != new.colour) + (old.shape != new.shape)
    return float(np.hypot(old.x - new.x, old.y - new.y)) + OTHER_LOOKS * others


@dataclass(frozen=True)
class _Motion:
    track: Track
    jitter: float
    stops: bool
    jumps: bool


@dataclass(frozen=True)
class _Fit:
    """A motion laid through places.

    Attributes:
        kind: "steady", "stops" or "jumps".
        velocity: in pixels per frame.
        missed: root mean square of what is left over, in pixels.
        deviation: the same, corrected for how many numbers were fitted.
    """

    kind: str
    velocity: Velocity
    missed: float
    deviation: float


def _explain(path: Path) -> _Motion:
    times = np.array([time for time, item in enumerate(path) if item is not None], dtype=float)
    places = np.array([(item.x, item.y) for item in path if item is not None])
    last = len(path) - 1
    steady = _fit("steady", places, times)
    fits = [steady]
    if steady.missed > SUSPICIOUS:
        others = [_fit("stops", places, np.minimum(times, stop)) for stop in range(2, last - 1)]
        others = [fit for fit in others if pace(fit.velocity) != "still"]
        others += [_fit("jumps", places, times, times >= start) for start in range(2, last)]
        # With mere jitter, some stop or jump always fits a little better.
        fits += [fit for fit in others if fit.deviation < 0.5 * steady.deviation]
    best = min(fits, key=lambda fit: fit.deviation)
    jitter = _visible((best.deviation - STEADY) / (JITTER - STEADY))
    return _Motion(Track(tuple(path), best.velocity), jitter, best.kind == "stops", best.kind == "jumps")


def _fit(kind: str, places: np.ndarray, course: np.ndarray, jumped: np.ndarray | None = None) -> _Fit:
    """Lay places [n, 2] along a course [n] by least squares, with a leap where `jumped` [n] turns true."""
    columns = [np.ones_like(course), course, *([] if jumped is None else [jumped.astype(float)])]
    design = np.stack(columns, axis=1)
    solution, *_ = np.linalg.lstsq(design, places, rcond=None)
    left = float(((places - design @ solution) ** 2).sum())
    free = max(1, len(course) - len(columns))
    velocity = float(solution[1, 0]), float(solution[1, 1])
    return _Fit(kind, velocity, float(np.sqrt(left / len(course))), float(np.sqrt(left / (2 * free))))


def _changes(track: Track) -> bool:
    """Whether it has one name at the start and another at the end."""
    names = [(item.colour, item.shape) for item in track.seen]
    start, end = set(names[:FEWEST]), set(names[-FEWEST:])
    return len(start) == len(end) == 1 and start != end


def _flicker(video: np.ndarray | Sequence[Image.Image]) -> float:
    """How much the brightness of the background varies."""
    levels = [np.median(_pixels(frame).reshape(-1, 3), axis=0).sum() for frame in video]
    # Levels of half to full severity either way have a standard deviation of 0.76 of it.
    return _visible(float(np.std(np.log(np.maximum(levels, 1.0)))) / (0.76 * FLICKER))


def _pixels(frame: np.ndarray | Image.Image) -> np.ndarray:
    return np.asarray(frame.convert("RGB")) if isinstance(frame, Image.Image) else frame


def _visible(value: float) -> float:
    """Severity in [0, 1]; what is within measurement error of nothing is nothing."""
    return 0.0 if value < 0.12 else float(min(1.0, value))
