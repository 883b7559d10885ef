"""Seeded preference data of the nano moving world: videos, which of two is better under an instruction, and why.

The label of a pair depends on the instruction: *video-alignment* looks at the prompt only, *video-motion* at how things
move, and *video-overall* at the prompt first and then at motion and frames. Where a first frame is given, *first-frame*
looks at how it is kept, and *i2v-overall* at that first, then at the prompt, then at motion and frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

from ...rewards.instructions import PRESETS
from .. import preferences as still
from ..preferences import MARGIN, VISIBLE, Picture, maybe_degraded
from ..render import CLEAN
from ..scenes import IMAGE_SIZE, Grade, ObjectSpec
from .render import SMOOTH, MotionFlaws, Video, sample_flaws
from .scenes import (
    Movement,
    MovingScene,
    MovingSpec,
    Track,
    VideoSpec,
    edit_motion,
    edit_object,
    fidelity,
    grade,
    heading,
    pace,
    sample_movement,
    sample_prompt,
    sample_scene_for,
    strength,
)

VIDEO_INSTRUCTIONS: Final = ("video-alignment", "video-motion", "video-overall", "first-frame", "i2v-overall")
GROUP: Final = 6
"""Videos for one prompt."""

SMOOTHLY: Final = ("steady", "smooth", "lasting", "continuous", "constant")
BADLY: Final = ("flickering", "shaky", "stopping", "jumping", "changing")


def needs_first_frame(instruction: str) -> bool:
    """Whether an instruction judges image-to-video, and so is shown the given first frame."""
    return PRESETS[instruction].task == "i2v"


@dataclass(frozen=True)
class VideoMarks:
    """What the instructions look at.

    Attributes:
        grade: against the prompt.
        motion: how smooth it is and whether it is as strong as was asked, in [0, 1].
        aesthetics, structure: of every frame, in [0, 1].
        fidelity: to the given first frame.
    """

    grade: Grade
    motion: float
    aesthetics: float
    structure: float
    fidelity: Grade

    @property
    def quality(self) -> float:
        """Motion and looks together, in [0, 1]."""
        return self.motion * self.aesthetics * self.structure


def marks(video: Video, spec: VideoSpec, first_frame: Picture) -> VideoMarks:
    """The truth about a video that was to show `spec` and, where that is asked, to start from `first_frame`."""
    same_style = still.flaws(video.degradation) == still.flaws(first_frame.degradation)
    return VideoMarks(
        grade(spec, video.tracks),
        video.flaws.smoothness * (0.5 + 0.5 * strength(spec, video.tracks)),
        video.degradation.aesthetics,
        video.degradation.structure,
        fidelity(first_frame.objects, video.tracks, same_style),
    )


def preferred(instruction: str, candidate: VideoMarks, reference: VideoMarks) -> bool | None:
    """Whether the candidate is better than the reference under an instruction; None for a tie.

    Criteria decide in their order: the first in which the two differ by more than its margin.
    """
    alignment = candidate.grade.score - reference.grade.score, 0.0
    motion = candidate.motion - reference.motion, MARGIN
    kept = candidate.fidelity.score - reference.fidelity.score, 0.0
    quality = candidate.quality - reference.quality, MARGIN
    criteria = {
        "video-alignment": (alignment,),
        "video-motion": (motion,),
        "video-overall": (alignment, quality),
        "first-frame": (kept,),
        "i2v-overall": (kept, alignment, quality),
    }
    if instruction not in criteria:
        raise ValueError(f"the moving world knows the instructions {', '.join(criteria)}, not {instruction!r}")
    return next((difference > 0 for difference, margin in criteria[instruction] if abs(difference) > margin), None)


def good(instruction: str, marked: VideoMarks) -> bool:
    """Whether a video on its own is good under an instruction: correct, faithful, free of visible flaws, or all."""
    looks = marked.aesthetics > 1 - MARGIN and marked.structure > 1 - MARGIN
    moves = marked.motion > 1 - MARGIN
    return {
        "video-alignment": marked.grade.correct,
        "video-motion": moves,
        "video-overall": marked.grade.correct and moves and looks,
        "first-frame": marked.fidelity.correct,
        "i2v-overall": marked.fidelity.correct and marked.grade.correct and moves and looks,
    }[instruction]


def motion_flaws(flaws: MotionFlaws) -> tuple[bool, ...]:
    """Which of flicker, jitter, freezing, jumps and changes are visible."""
    return tuple(value >= VISIBLE for value in astuple(flaws))


def movement(track: Track) -> Movement:
    """What there is to say of how an object moves."""
    seen = pace(track.velocity)
    return Movement() if seen == "still" else Movement(heading(track.velocity), seen)


def caption(video: Video) -> str:
    """All there is to say of a video: its objects from left to right, how they move, and what is wrong."""
    rows = ("top", "middle", "bottom")
    named = [
        f"{track.first.colour} {track.first.shape} {rows[min(2, int(3 * track.first.y / IMAGE_SIZE))]} "
        f"{movement(track).phrase}"
        for track in sorted(video.tracks, key=lambda track: track.first.x)
    ]
    moves = _words(motion_flaws(video.flaws), SMOOTHLY, BADLY)
    looks = _words(still.flaws(video.degradation), still.FLAWLESS, still.FLAWED)
    return f"{', '.join(named)}; {', '.join(moves)}; {', '.join(looks)}."


def _words(flawed: tuple[bool, ...], fine: tuple[str, ...], bad: tuple[str, ...]) -> list[str]:
    return [words[flaw] for flaw, words in zip(flawed, zip(fine, bad, strict=True), strict=True)]


def statements(rng: np.random.Generator, video: Video, count: int) -> list[tuple[str, bool]]:
    """Short statements about a video, about as many true as false: what prompts can require, its motion and looks."""
    flawed = motion_flaws(video.flaws) + still.flaws(video.degradation)
    fine, bad = SMOOTHLY + still.FLAWLESS, BADLY + still.FLAWED
    found: list[tuple[str, bool]] = []
    while len(found) < count:
        if rng.random() < 0.35:
            # The motion's words are the new ones, so they are asked for more often than those of frames.
            index = int(rng.integers(5)) if rng.random() < 0.75 else int(rng.integers(5, 9))
            flaw_named = bool(rng.random() < 0.5)
            found.append(((bad if flaw_named else fine)[index], flawed[index] == flaw_named))
            continue
        spec = _spec_about(rng, video) if rng.random() < 0.85 else sample_prompt(rng)
        graded = grade(spec, video.tracks)
        if rng.random() < 0.3:
            found.append((spec.text, graded.correct))
        else:
            check = graded.checks[int(rng.integers(len(graded.checks)))]
            found.append((check.requirement, check.met))
    return found


def _spec_about(rng: np.random.Generator, video: Video) -> VideoSpec:
    """A prompt that one of the video's objects satisfies, or would if it moved otherwise."""
    track = video.tracks[int(rng.integers(len(video.tracks)))]
    shown = movement(track)
    if rng.random() < 0.5:
        shown = Movement(shown.direction, shown.speed if rng.random() < 0.5 else None)
    else:
        shown = sample_movement(rng)
    return VideoSpec((MovingSpec(ObjectSpec(track.first.shape, track.first.colour), shown),))


def _tally(instruction: str, video: Video, marked: VideoMarks) -> list[tuple[str, str]]:
    """Per criterion that the instruction covers: its name and 'met of all'."""
    moves, looks = motion_flaws(video.flaws), still.flaws(video.degradation)
    checks, kept = marked.grade.checks, marked.fidelity.checks
    strong = marked.motion == video.flaws.smoothness
    lines = {
        "first-frame fidelity": ("Fidelity", sum(check.met for check in kept), len(kept)),
        "alignment": ("Alignment", sum(check.met for check in checks), len(checks)),
        "motion": ("Motion", len(moves) - sum(moves) + strong, len(moves) + 1),
        "aesthetics": ("Aesthetics", 3 - sum(looks[:3]), 3),
        "structure": ("Structure", 1 - looks[3], 1),
    }
    wanted = PRESETS[instruction].criteria
    return [(name, f"{met} of {total}") for criterion, (name, met, total) in lines.items() if criterion in wanted]


def rationale(
    instruction: str, spec: VideoSpec, first_frame: Picture, candidate: Video, reference: Video | None
) -> str:
    """The chain of thought a teacher would write before the verdict: what is seen, then how the criteria come out."""
    tally = _tally(instruction, candidate, marks(candidate, spec, first_frame))
    given = f"First frame: {still.caption(first_frame)} " if needs_first_frame(instruction) else ""
    if reference is None:
        return f"{given}Candidate: {caption(candidate)}" + "".join(f" {name}: {text}." for name, text in tally)
    other = _tally(instruction, reference, marks(reference, spec, first_frame))
    found = "".join(
        f" {name}: candidate {mine}, reference {theirs}."
        for (name, mine), (_, theirs) in zip(tally, other, strict=True)
    )
    return f"{given}Candidate: {caption(candidate)} Reference: {caption(reference)}{found}"


@dataclass(frozen=True)
class VideoGroup:
    """Videos that were all to show one prompt, from one first frame: some right, some wrong, some bad."""

    spec: VideoSpec
    first_frame: Picture
    videos: tuple[Video, ...]


def first_frame_of(scene: MovingScene) -> Picture:
    """The frame that image-to-video is given."""
    return Picture.of(scene.at(0), CLEAN, np.random.default_rng(0))


def _maybe_flawed(rng: np.random.Generator, scene: MovingScene, share: float) -> MotionFlaws:
    return sample_flaws(rng, scene) if rng.random() < share else SMOOTH


def sample_group(rng: np.random.Generator, held_out: bool = False) -> VideoGroup:
    """Six videos for one prompt and one first frame.

    Two are right, of which the first alone starts from the given frame; then that one moving otherwise, with another
    object, and moving badly; the last is right for another prompt. Flaws of motion and of frames are scattered over
    all of them.
    """
    spec = sample_prompt(rng, held_out=held_out)
    right, again = (sample_scene_for(rng, spec) for _ in range(2))
    other = sample_scene_for(rng, sample_prompt(rng, spec.kind, held_out))
    scenes = [right, again, edit_motion(rng, spec, right), edit_object(rng, spec, right), right, other]
    shares = (0.2, 0.3, 0.2, 0.2, 1.0, 0.3)
    videos = tuple(
        Video.of(scene, rng, _maybe_flawed(rng, scene, share), maybe_degraded(rng, 0.25))
        for scene, share in zip(scenes, shares, strict=True)
    )
    return VideoGroup(spec, first_frame_of(right), videos)


@dataclass(frozen=True)
class VideoPair:
    """A labelled comparison; `first_frame` is shown under instructions for image-to-video only."""

    instruction: str
    spec: VideoSpec
    first_frame: Picture
    candidate: Video
    reference: Video
    better: bool


def sample_pairs(
    rng: np.random.Generator, held_out: bool = False, instruction: str | None = None
) -> Iterator[VideoPair]:
    """An endless stream of independent pairs, one to a group, ties left out."""
    while True:
        group = sample_group(rng, held_out)
        name = instruction or VIDEO_INSTRUCTIONS[int(rng.integers(len(VIDEO_INSTRUCTIONS)))]
        first, second = (group.videos[index] for index in rng.choice(GROUP, 2, replace=False))
        one, other = (marks(video, group.spec, group.first_frame) for video in (first, second))
        better = preferred(name, one, other)
        if better is not None:
            yield VideoPair(name, group.spec, group.first_frame, first, second, better)


def sample_motion_pairs(rng: np.random.Generator, held_out: bool = False) -> Iterator[VideoPair]:
    """Pairs that differ in motion alone: a right video against the same objects moving otherwise, by alignment."""
    while True:
        spec = sample_prompt(rng, held_out=held_out)
        right = sample_scene_for(rng, spec)
        degradation = maybe_degraded(rng, 0.2)
        videos = [Video.of(scene, rng, degradation=degradation) for scene in (right, edit_motion(rng, spec, right))]
        yield from _pair(rng, "video-alignment", spec, right, *videos)


def sample_flaw_pairs(rng: np.random.Generator, held_out: bool = False) -> Iterator[VideoPair]:
    """Pairs that differ in one flaw of motion: a smooth video against the same one moving badly, by motion."""
    while True:
        spec = sample_prompt(rng, held_out=held_out)
        scene = sample_scene_for(rng, spec)
        degradation = maybe_degraded(rng, 0.2)
        videos = [Video.of(scene, rng, flaws, degradation) for flaws in (SMOOTH, sample_flaws(rng, scene, 1))]
        yield from _pair(rng, "video-motion", spec, scene, *videos)


def sample_first_frame_pairs(rng: np.random.Generator, held_out: bool = False) -> Iterator[VideoPair]:
    """Pairs of right videos of which one starts from the given frame, and the other from elsewhere."""
    while True:
        spec = sample_prompt(rng, held_out=held_out)
        scenes = [sample_scene_for(rng, spec) for _ in range(2)]
        yield from _pair(rng, "first-frame", spec, scenes[0], *(Video.of(scene, rng) for scene in scenes))


def _pair(
    rng: np.random.Generator, instruction: str, spec: VideoSpec, given: MovingScene, better: Video, worse: Video
) -> Iterator[VideoPair]:
    """The two in either order; nothing where they tie after all, as when there was no room for a jump."""
    first_frame = first_frame_of(given)
    if not preferred(instruction, *(marks(video, spec, first_frame) for video in (better, worse))):
        return
    if rng.random() < 0.5:
        yield VideoPair(instruction, spec, first_frame, better, worse, True)
    else:
        yield VideoPair(instruction, spec, first_frame, worse, better, False)


def sample_conflicts(rng: np.random.Generator) -> Iterator[VideoPair]:
    """Pairs in which alignment and motion disagree: a right video that moves badly against a wrong one that does not.

    The same two videos come twice in a row, once judged by alignment and once by motion.
    """
    while True:
        spec = sample_prompt(rng)
        scene = sample_scene_for(rng, spec)
        right = Video.of(scene, rng, sample_flaws(rng, scene, 1))
        wrong = Video.of(edit_object(rng, spec, scene), rng)
        right_first = bool(rng.random() < 0.5)
        candidate, reference = (right, wrong) if right_first else (wrong, right)
        given = first_frame_of(scene)
        pairs = [
            VideoPair(name, spec, given, candidate, reference, better)
            for name, better in (("video-alignment", right_first), ("video-motion", not right_first))
        ]
        marked = [marks(video, spec, given) for video in (candidate, reference)]
        if all(preferred(pair.instruction, *marked) is pair.better for pair in pairs):
            yield from pairs
