from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.nano.moving.oracle import judge
from diffusers_ext.nano.moving.preferences import (
    BADLY,
    SMOOTHLY,
    VIDEO_INSTRUCTIONS,
    VideoMarks,
    caption,
    first_frame_of,
    good,
    marks,
    motion_flaws,
    needs_first_frame,
    preferred,
    rationale,
    sample_conflicts,
    sample_first_frame_pairs,
    sample_flaw_pairs,
    sample_group,
    sample_motion_pairs,
    sample_pairs,
    statements,
)
from diffusers_ext.nano.moving.render import SMOOTH, MotionFlaws, Video, sample_flaws
from diffusers_ext.nano.moving.scenes import (
    DIRECTIONS,
    MovingScene,
    grade,
    parse_prompt,
    sample_prompt,
    sample_scene_for,
)
from diffusers_ext.nano.preferences import FLAWED, FLAWLESS
from diffusers_ext.nano.render import CLEAN, Degradation
from diffusers_ext.nano.scenes import HELD_OUT, Check, Grade, SceneObject
from diffusers_ext.rewards.instructions import PRESETS


def marked(alignment=1.0, motion=1.0, looks=1.0, kept=1.0) -> VideoMarks:
    return VideoMarks(Grade((Check("anything", alignment),)), motion, looks, 1.0, Grade((Check("anything", kept),)))


QUARTERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
MARKS = st.builds(marked, QUARTERS, st.floats(0, 1), st.floats(0, 1), QUARTERS)


@given(st.sampled_from(VIDEO_INSTRUCTIONS), MARKS, MARKS)
def test_preference_is_antisymmetric(instruction, a, b):
    forward, backward = preferred(instruction, a, b), preferred(instruction, b, a)
    assert (forward is None) == (backward is None)
    if forward is not None:
        assert forward is not backward
    assert preferred(instruction, a, a) is None


@pytest.mark.parametrize(
    ("instruction", "a", "b", "better"),
    [
        ("video-alignment", marked(1.0, 0.1, 0.1, 0.0), marked(0.75), True),
        ("video-alignment", marked(0.5, 1.0), marked(0.5, 0.1), None),
        ("video-motion", marked(0.0, 0.9), marked(1.0, 0.5), True),
        ("video-motion", marked(0.0, 0.9), marked(1.0, 0.75), None),
        ("video-overall", marked(0.75, 1.0, 1.0), marked(1.0, 0.1, 0.1), False),
        ("video-overall", marked(1.0, 0.9, 0.9, 0.0), marked(1.0, 0.9, 0.3), True),
        ("video-overall", marked(1.0, 0.5, 1.0), marked(1.0, 1.0, 1.0), False),
        ("first-frame", marked(0.0, 0.1, 0.1, 1.0), marked(1.0, 1.0, 1.0, 0.75), True),
        ("first-frame", marked(1.0), marked(0.0), None),
        ("i2v-overall", marked(0.0, 0.0, 0.0, 1.0), marked(kept=0.75), True),
        ("i2v-overall", marked(0.5), marked(1.0, 0.0), False),
        ("i2v-overall", marked(1.0, 0.5), marked(1.0, 1.0), False),
    ],
)
def test_preferences_by_hand(instruction, a, b, better):
    assert preferred(instruction, a, b) is better


def test_instructions_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="alignment, video-motion"):
        preferred("alignment", marked(), marked())


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (marked(), "11111"),
        (marked(0.75), "01010"),
        (marked(motion=0.5), "10010"),
        (marked(looks=0.5), "11010"),
        (marked(kept=0.75), "11100"),
        (marked(motion=0.85, looks=0.85), "11111"),
    ],
)
def test_good_by_hand(mark, expected):
    assert "".join(str(int(good(name, mark))) for name in VIDEO_INSTRUCTIONS) == expected


def test_the_presets_of_videos_are_the_instructions():
    assert set(VIDEO_INSTRUCTIONS) == {name for name, preset in PRESETS.items() if preset.task != "t2i"}
    assert [needs_first_frame(name) for name in VIDEO_INSTRUCTIONS] == [False, False, False, True, True]


def test_any_flaw_of_motion_makes_a_video_bad():
    rng = np.random.default_rng(1)
    for _ in range(60):
        spec = sample_prompt(rng)
        scene = sample_scene_for(rng, spec)
        video = Video.of(scene, rng, sample_flaws(rng, scene))
        assert any(motion_flaws(video.flaws))
        assert not good("video-motion", marks(video, spec, first_frame_of(scene)))
        clean = marks(Video.of(scene, rng), spec, first_frame_of(scene))
        assert all(good(instruction, clean) for instruction in VIDEO_INSTRUCTIONS)


def test_groups_depend_on_their_seed_alone():
    first, again, other = (sample_group(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.spec == again.spec
    for a, b in zip(first.videos, again.videos, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert (a.tracks, a.flaws, a.degradation) == (b.tracks, b.flaws, b.degradation)
    assert not np.array_equal(first.videos[0].frames, other.videos[0].frames)


@pytest.mark.parametrize("held_out", [False, True])
def test_groups_hold_right_and_wrong_videos(held_out):
    rng = np.random.default_rng(7)
    smooth, kept = [], []
    for _ in range(40):
        group = sample_group(rng, held_out)
        assert len(group.videos) == 6
        marked_ = [marks(video, group.spec, group.first_frame) for video in group.videos]
        for place in (2, 3):
            assert not marked_[place].grade.correct
        for video, mark in zip(group.videos[:2], marked_, strict=False):
            assert mark.grade.correct == (not video.flaws.change)
        assert group.videos[4].flaws != SMOOTH
        smooth.append([video.flaws == SMOOTH for video in group.videos])
        kept.append([mark.fidelity.correct for mark in marked_])
        assert group.spec.is_held_out == held_out
        shown = {sighting for video in group.videos for track in video.tracks for sighting in [track.name]}
        assert bool(shown & HELD_OUT) == held_out
    assert not np.any(np.array(smooth)[:, 4])
    assert np.mean(np.array(kept)[:, 0]) > 0.4 and np.mean(np.array(kept)[:, 1]) < 0.05


def test_pairs_are_labelled_by_the_truth_and_evenly():
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(8)), 80))
    for pair in pairs:
        one, other = (marks(video, pair.spec, pair.first_frame) for video in (pair.candidate, pair.reference))
        assert pair.better is preferred(pair.instruction, one, other)
    assert {pair.instruction for pair in pairs} == set(VIDEO_INSTRUCTIONS)
    assert 0.35 < np.mean([pair.better for pair in pairs]) < 0.65
    only = itertools.islice(sample_pairs(np.random.default_rng(8), instruction="first-frame"), 10)
    assert {pair.instruction for pair in only} == {"first-frame"}


@pytest.mark.parametrize("held_out", [False, True])
def test_motion_pairs_differ_in_motion_alone_and_the_oracle_agrees(held_out):
    pairs = list(itertools.islice(sample_motion_pairs(np.random.default_rng(9), held_out), 45))
    agreed = []
    for pair in pairs:
        right = [grade(pair.spec, video.tracks).correct for video in (pair.candidate, pair.reference)]
        assert right == [pair.better, not pair.better]
        assert [t.name for t in pair.candidate.tracks] == [t.name for t in pair.reference.tracks]
        assert [t.velocity for t in pair.candidate.tracks] != [t.velocity for t in pair.reference.tracks]
        assert (pair.candidate.flaws, pair.candidate.degradation) == (pair.reference.flaws, pair.reference.degradation)
        assert pair.spec.is_held_out == held_out
        if pair.candidate.degradation == CLEAN:
            agreed.append([judge(v.frames, pair.spec).correct for v in (pair.candidate, pair.reference)] == right)
    assert np.mean(agreed) >= 0.98 and len(agreed) > 25
    assert 0.3 < np.mean([pair.better for pair in pairs]) < 0.7


def test_no_single_frame_gives_a_reversed_video_away():
    """Among the minimal pairs are some of which one is the other backwards, so that only the order of frames tells."""
    pairs = itertools.islice(sample_motion_pairs(np.random.default_rng(10)), 80)
    backwards = [
        np.array_equal(pair.candidate.frames[::-1], pair.reference.frames)
        for pair in pairs
        if pair.candidate.degradation == CLEAN
    ]
    assert np.mean(backwards) > 0.1


def test_flaw_pairs_show_the_same_scene_smooth_and_not():
    for pair in itertools.islice(sample_flaw_pairs(np.random.default_rng(11)), 60):
        better, worse = (pair.candidate, pair.reference) if pair.better else (pair.reference, pair.candidate)
        assert pair.instruction == "video-motion"
        assert better.flaws == SMOOTH and sum(motion_flaws(worse.flaws)) == 1
        assert [t.velocity for t in better.tracks] == [t.velocity for t in worse.tracks]


def test_first_frame_pairs():
    for pair in itertools.islice(sample_first_frame_pairs(np.random.default_rng(12)), 40):
        better, worse = (pair.candidate, pair.reference) if pair.better else (pair.reference, pair.candidate)
        assert np.array_equal(better.frames[0], pair.first_frame.pixels)
        assert not np.array_equal(worse.frames[0], pair.first_frame.pixels)
        assert grade(pair.spec, better.tracks).correct and grade(pair.spec, worse.tracks).correct


def test_conflicts_come_in_twos_of_opposite_labels():
    found = list(itertools.islice(sample_conflicts(np.random.default_rng(13)), 60))
    for by_prompt, by_motion in zip(found[::2], found[1::2], strict=True):
        assert by_prompt.candidate is by_motion.candidate and by_prompt.reference is by_motion.reference
        assert (by_prompt.instruction, by_motion.instruction) == ("video-alignment", "video-motion")
        assert by_prompt.better is not by_motion.better
        for pair in (by_prompt, by_motion):
            one, other = (marks(video, pair.spec, pair.first_frame) for video in (pair.candidate, pair.reference))
            assert pair.better is preferred(pair.instruction, one, other)


def holds_true(statement: str, verdict) -> bool:
    """A reading of statements of its own, for what the oracle sees."""
    if statement in SMOOTHLY + BADLY + FLAWLESS + FLAWED:
        bad = statement in BADLY + FLAWED
        names = (*BADLY, *FLAWED) if bad else (*SMOOTHLY, *FLAWLESS)
        flaws = ("flicker", "jitter", "freeze", "jump", "change", "blur", "noise", "washout", "breakage")
        flaw = flaws[names.index(statement)]
        source = verdict.flaws if hasattr(verdict.flaws, flaw) else verdict.quality
        return (getattr(source, flaw) > 0) == bad
    statement = statement.removeprefix("a video of ")
    if " and " in statement:
        return all(holds_true(part, verdict) for part in statement.split(" and "))
    match = re.fullmatch(r"an? (?:(\w+) )??(\w+)(?: (standing still|moving (\w+)(?: (slowly|fast))?))?", statement)
    colour, shape, motion, direction, speed = match.groups()
    found = [t for t in verdict.tracks if t.name[1] == shape and colour in (None, t.name[0])]
    if motion is None:
        return bool(found)
    sizes = [np.hypot(*t.velocity) for t in found]
    if direction is None:
        return any(size < 0.5 for size in sizes)
    return any(
        size > 0.5
        and np.dot(t.velocity, DIRECTIONS[direction]) > 0.9 * size
        and speed in (None, "fast" if size > 2.2 else "slowly")
        for t, size in zip(found, sizes, strict=True)
    )


def test_statements_say_what_clean_frames_show():
    rng = np.random.default_rng(14)
    agreed, labels = [], []
    for _ in range(60):
        scene = sample_scene_for(rng, spec := sample_prompt(rng))
        # An object that changes is one thing and then another, so that what the oracle calls it is not all there is.
        video = Video.of(scene, rng, MotionFlaws() if rng.random() < 0.5 else MotionFlaws(flicker=0.7))
        verdict = judge(video.frames, spec)
        found = statements(rng, video, 12)
        assert len(found) == 12
        agreed += [holds_true(text, verdict) == true for text, true in found]
        labels += [true for _, true in found]
    assert np.mean(agreed) >= 0.98
    assert 0.4 < np.mean(labels) < 0.7


def test_a_caption_by_hand():
    items = [("star", "red", 40.0, 10.0), ("cross", "blue", 12.0, 30.0)]
    objects = tuple(SceneObject(s, c, x, y, 8.0, (200, 9, 9), 0.0) for s, c, x, y in items)
    scene = MovingScene(objects, ((0.0, 3.5), (0.0, 0.0)), (20, 20, 20))
    video = Video.of(scene, np.random.default_rng(0), MotionFlaws(flicker=0.9), Degradation(blur=0.5))
    assert caption(video) == (
        "blue cross middle standing still, red star top moving down fast; "
        "flickering, smooth, lasting, continuous, constant; blurry, clean, vivid, whole."
    )


TALLIES = {
    "video-alignment": ["Alignment"],
    "video-motion": ["Motion"],
    "video-overall": ["Alignment", "Motion", "Aesthetics", "Structure"],
    "first-frame": ["Fidelity"],
    "i2v-overall": ["Fidelity", "Alignment", "Motion", "Aesthetics"],
}


@pytest.mark.parametrize("instruction", VIDEO_INSTRUCTIONS)
def test_rationales_count_right(instruction):
    rng = np.random.default_rng(15)
    for _ in range(25):
        group = sample_group(rng)
        first, second = group.videos[0], group.videos[int(rng.integers(1, 6))]
        text = rationale(instruction, group.spec, group.first_frame, first, second)
        assert text.startswith("First frame: ") == needs_first_frame(instruction)
        assert f"Candidate: {caption(first)} Reference: {caption(second)}" in text
        tallies = {
            name: [int(number) for number in numbers]
            for name, *numbers in re.findall(r"(\w+): candidate (\d) of (\d), reference (\d) of (\d)\.", text)
        }
        assert list(tallies) == TALLIES[instruction]
        for video, side in ((first, 0), (second, 2)):
            mark = marks(video, group.spec, group.first_frame)
            said = caption(video).rstrip(".").split("; ")
            strong = mark.motion == video.flaws.smoothness
            counted = {
                "Alignment": [sum(c.score == 1 for c in mark.grade.checks), len(mark.grade.checks)],
                "Fidelity": [sum(c.score == 1 for c in mark.fidelity.checks), len(mark.fidelity.checks)],
                "Motion": [sum(word in SMOOTHLY for word in said[1].split(", ")) + strong, 6],
                "Aesthetics": [sum(word in FLAWLESS[:3] for word in said[2].split(", ")), 3],
                "Structure": [int("whole" in said[2]), 1],
            }
            for name, numbers in tallies.items():
                assert numbers[side : side + 2] == counted[name]


def test_a_rationale_without_a_reference():
    rng = np.random.default_rng(16)
    spec = parse_prompt("a video of a red star moving left fast")
    scene = sample_scene_for(rng, spec, extra=0.0)
    text = rationale("video-overall", spec, first_frame_of(scene), Video.of(scene, rng), None)
    assert re.fullmatch(
        r"Candidate: red star (top|middle|bottom) moving left fast; steady, smooth, lasting, continuous, constant; "
        r"sharp, clean, vivid, whole\. Alignment: 4 of 4\. Motion: 6 of 6\. Aesthetics: 3 of 3\. Structure: 1 of 1\.",
        text,
    )
