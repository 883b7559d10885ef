from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.nano.moving.scenes import (
    DIRECTIONS,
    FRAMES,
    SPEEDS,
    VIDEO_KINDS,
    Movement,
    MovingSpec,
    Track,
    VideoSpec,
    edit_motion,
    edit_object,
    fidelity,
    grade,
    heading,
    pace,
    parse_prompt,
    sample_prompt,
    sample_scene_for,
    sample_velocity,
    strength,
)
from diffusers_ext.nano.scenes import COLOURS, HELD_OUT, SHAPES, ObjectSpec, PromptError, SeenObject
from diffusers_ext.nano.scenes import parse_prompt as parse_still_prompt


def asked(shape, colour=None, direction=None, speed=None):
    return MovingSpec(ObjectSpec(shape, colour), Movement(direction, speed))


@pytest.mark.parametrize(
    ("text", "kind", "objects"),
    [
        ("a video of a red star moving left", "direction", [asked("star", "red", "left")]),
        ("a video of an orange circle moving up fast", "speed", [asked("circle", "orange", "up", "fast")]),
        ("A video of a  square standing still.", "still", [asked("square")]),
        (
            "a video of a red star moving left and a blue circle moving down slowly",
            "two_objects",
            [asked("star", "red", "left"), asked("circle", "blue", "down", "slowly")],
        ),
        (
            "a video of a red star standing still and a blue star moving right",
            "two_objects",
            [asked("star", "red"), asked("star", "blue", "right")],
        ),
    ],
)
def test_prompts_by_hand(text, kind, objects):
    spec = parse_prompt(text)
    assert (spec.kind, spec.objects) == (kind, tuple(objects))


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a red star",
        "a video of a red star",
        "a video of a red dog moving left",
        "a video of a red star moving left quickly",
        "a video of a red star moving",
        "a video of a red star standing still fast",
        "a video of two stars moving left",
        "a video of a star moving left and a red star moving right",
        "a video of a red star moving left and a red star moving right",
        "a video of a red star moving left and a circle moving up and a cross moving up",
        "",
    ],
)
def test_what_is_no_prompt_is_refused(text):
    with pytest.raises(PromptError, match=r"names one object twice|red star moving left"):
        parse_prompt(text)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_sampled_prompts_read_back(kind, held_out):
    rng = np.random.default_rng(1)
    for _ in range(60):
        spec = sample_prompt(rng, kind, held_out)
        assert parse_prompt(spec.text) == spec
        assert spec.kind == kind
        assert spec.is_held_out == held_out
        assert parse_still_prompt(spec.still.text) == spec.still


def test_all_kinds_are_drawn_evenly():
    rng = np.random.default_rng(2)
    kinds = [sample_prompt(rng).kind for _ in range(800)]
    assert all(150 < kinds.count(kind) < 250 for kind in VIDEO_KINDS)


@pytest.mark.parametrize(
    ("velocity", "direction", "seen"),
    [
        ((0, 0), None, "still"),
        ((0.3, -0.3), None, "still"),
        ((1, 0), "right", "slowly"),
        ((-3.5, 0.5), "left", "fast"),
        ((0, 3), "down", "fast"),
        ((0.2, -1.2), "up", "slowly"),
        ((2, 2), None, "fast"),
    ],
)
def test_velocities_by_hand(velocity, direction, seen):
    assert (heading(velocity), pace(velocity)) == (direction, seen)


def test_speeds_lie_well_apart():
    rng = np.random.default_rng(3)
    for direction, speed in itertools.product(DIRECTIONS, SPEEDS):
        for _ in range(50):
            velocity = np.array(sample_velocity(rng, Movement(direction, speed)))
            for error in rng.normal(0, 0.1, (5, 2)):
                assert Movement(direction, speed).fits(tuple(velocity + error))
                assert not Movement(direction, "fast" if speed == "slowly" else "slowly").fits(tuple(velocity + error))


@given(st.tuples(st.floats(-5, 5), st.floats(-5, 5)))
def test_no_velocity_fits_two_directions(velocity):
    fitting = [direction for direction in (None, *DIRECTIONS) if Movement(direction).fits(velocity)]
    assert len(fitting) <= 1
    if fitting and fitting[0]:
        assert np.dot(velocity, DIRECTIONS[fitting[0]]) > 0


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_scenes_do_what_was_asked_and_stay_in_the_picture(kind, held_out):
    rng = np.random.default_rng(4)
    for _ in range(40):
        spec = sample_prompt(rng, kind, held_out)
        scene = sample_scene_for(rng, spec)
        assert grade(spec, scene.tracks).correct
        frames = [scene.at(time).objects for time in range(FRAMES)]
        for objects in frames:
            for item in objects:
                assert item.radius + 1 < item.x < 63 - item.radius and item.radius + 1 < item.y < 63 - item.radius
            for a, b in itertools.combinations(objects, 2):
                assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + 2
        for wanted, first, last in zip(spec.objects, frames[0], frames[-1], strict=False):
            way = np.array([last.x - first.x, last.y - first.y])
            if wanted.movement.direction is None:
                assert np.abs(way).max() == 0
            else:
                along = way @ DIRECTIONS[wanted.movement.direction]
                assert along > 6 and np.hypot(*way) == pytest.approx(along)
                if wanted.movement.speed:
                    assert (along > 18) == (wanted.movement.speed == "fast")
        extra = {(item.colour, item.shape) for item in frames[0][len(spec.objects) :]}
        assert not extra & HELD_OUT


def test_scenes_depend_on_their_seed_alone():
    first, again, other = (
        sample_scene_for(np.random.default_rng(seed), parse_prompt("a video of a star moving up")) for seed in (5, 5, 6)
    )
    assert first == again != other


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_edited_motion_changes_motion_alone(kind):
    rng = np.random.default_rng(6)
    same_start = 0
    for _ in range(60):
        spec = sample_prompt(rng, kind)
        scene = sample_scene_for(rng, spec)
        edited = edit_motion(rng, spec, scene)
        assert not grade(spec, edited.tracks).correct
        assert edited.velocities != scene.velocities
        assert edited.background == scene.background
        for a, b in zip(scene.objects, edited.objects, strict=True):
            assert (a.colour, a.shape, a.rgb, a.rotation) == (b.colour, b.shape, b.rgb, b.rotation)
        assert grade(spec, edited.tracks).score < 1
        same_start += edited.objects == scene.objects
    assert same_start > 12


def test_a_video_played_backwards_shows_the_same_frames():
    rng = np.random.default_rng(7)
    scene = sample_scene_for(rng, sample_prompt(rng, "two_objects"))
    for time in range(FRAMES):
        for a, b in zip(scene.at(time).objects, scene.reversed.at(FRAMES - 1 - time).objects, strict=True):
            assert (a.x, a.y) == pytest.approx((b.x, b.y))


@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_an_edited_object_moves_as_before(kind):
    rng = np.random.default_rng(8)
    for _ in range(60):
        spec = sample_prompt(rng, kind)
        scene = sample_scene_for(rng, spec)
        edited = edit_object(rng, spec, scene)
        assert not grade(spec, edited.tracks).correct
        assert edited.velocities == scene.velocities
        changed = [(a, b) for a, b in zip(scene.objects, edited.objects, strict=True) if a != b]
        ((old, new),) = changed
        assert (old.x, old.y, old.radius) == (new.x, new.y, new.radius)
        assert (old.colour == new.colour) != (old.shape == new.shape)
        assert (new.colour, new.shape) not in HELD_OUT


def track(colour, shape, velocity, x=30.0, y=30.0, frames=FRAMES):
    return Track(
        tuple(SeenObject(shape, colour, x + t * velocity[0], y + t * velocity[1], 8.0) for t in range(frames)), velocity
    )


def changing(*names):
    return Track(tuple(SeenObject(shape, colour, 30.0, 30.0, 8.0) for colour, shape in names), (0.0, 0.0))


STAR_LEFT = "a video of a red star moving left"
STAR_STILL = "a video of a red star standing still"
FALLING_APART = changing(*[("red", "star")] * 6, *[("red", "cross")] * 2)


@pytest.mark.parametrize(
    ("prompt", "tracks", "scores"),
    [
        (STAR_LEFT, [track("red", "star", (-3, 0))], [1, 1, 1]),
        (STAR_LEFT, [track("red", "star", (3, 0))], [1, 1, 0]),
        (STAR_LEFT, [track("blue", "star", (-3, 0))], [1, 0, 0]),
        (STAR_LEFT, [track("blue", "star", (-3, 0)), track("red", "star", (0, 0))], [1, 1, 0]),
        ("a video of a star moving left", [track("blue", "star", (-1, 0))], [1, 1]),
        (f"{STAR_LEFT} fast", [track("red", "star", (-1, 0))], [1, 1, 1, 0]),
        (f"{STAR_LEFT} slowly", [track("red", "star", (-1, 0))], [1, 1, 1, 1]),
        (STAR_STILL, [track("red", "star", (-1, 0))], [1, 1, 0]),
        (STAR_STILL, [FALLING_APART], [0.75, 0.75, 1]),
        (STAR_STILL, [], [0, 0, 0]),
    ],
)
def test_grades_by_hand(prompt, tracks, scores):
    found = grade(parse_prompt(prompt), tracks)
    assert [check.score for check in found.checks] == scores
    assert found.correct == all(score == 1 for score in scores)


@pytest.mark.parametrize(
    ("prompt", "velocities", "expected"),
    [
        ("a video of a red star moving left", [(0, 3)], 1.0),
        ("a video of a red star moving left", [(0, 0)], 0.0),
        ("a video of a red star moving left fast", [(1, 0)], 0.0),
        ("a video of a red star standing still", [(1, 0)], 0.0),
        ("a video of a red star moving left fast and a blue star standing still", [(3, 0), (1, 0)], 0.5),
    ],
)
def test_strength_by_hand(prompt, velocities, expected):
    assert strength(parse_prompt(prompt), [track("white", "cross", v) for v in velocities]) == expected


def test_fidelity_by_hand():
    star, circle = SeenObject("star", "red", 20.0, 20.0, 8.0), SeenObject("circle", "blue", 45.0, 45.0, 8.0)
    both = [track("red", "star", (1, 0), 20, 20), track("blue", "circle", (0, 0), 45, 45)]
    assert fidelity([star, circle], both, True).correct
    assert [c.score for c in fidelity([star, circle], both, False).checks] == [1, 1, 1, 1, 1, 0]
    assert [c.score for c in fidelity([star], both, True).checks] == [1, 1, 0, 1]
    elsewhere = [track("red", "star", (1, 0), 26, 20)]
    assert [c.score for c in fidelity([star], elsewhere, True).checks] == [1, 0, 1, 1]
    larger = [Track((SeenObject("star", "red", 20.0, 20.0, 11.0),) * FRAMES, (0.0, 0.0))]
    assert [c.score for c in fidelity([star], larger, True).checks] == [1, 0, 1, 1]
    assert [c.score for c in fidelity([star, circle], elsewhere[:0], True).checks] == [0, 0, 0, 0, 1, 1]


def test_every_combination_can_be_asked_for():
    for colour, shape, direction in itertools.product(COLOURS, SHAPES, (None, *DIRECTIONS)):
        spec = VideoSpec((asked(shape, colour, direction),))
        assert parse_prompt(spec.text) == spec
