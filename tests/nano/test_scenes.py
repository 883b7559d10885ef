from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_ext.nano.preferences import edit_scene
from diffusers_ext.nano.scenes import (
    COLOURS,
    HELD_OUT,
    IMAGE_SIZE,
    NUMBERS,
    PROMPT_KINDS,
    SHAPES,
    PromptError,
    SeenObject,
    all_prompts,
    grade,
    parse_prompt,
    place,
    place_in_cells,
    sample_prompt,
    sample_scene,
    sample_scene_for,
)


def thing(words: str, x: float = 32.0, y: float = 32.0) -> SeenObject:
    colour, shape = words.split()
    return SeenObject(shape, colour, x, y, 9.0)


def names_held_out(objects) -> bool:
    return any((item.colour, item.shape) in HELD_OUT for item in objects)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("single_object", 5),
        ("two_objects", 20),
        ("counting", 15),
        ("colours", 40),
        ("position", 80),
        ("colour_attribution", 1280),
    ],
)
def test_every_prompt_is_read_back_as_what_was_written(kind, count):
    specs = all_prompts(kind)
    assert len(specs) == len(set(specs)) == len({spec.text for spec in specs}) == count
    for spec in specs:
        assert parse_prompt(spec.text) == spec
        assert parse_prompt(f"  {spec.text.upper()}.") == spec


def test_prompts_are_english():
    texts = {spec.text for kind in PROMPT_KINDS for spec in all_prompts(kind)}
    assert {
        "a photo of a star",
        "a photo of a circle and a cross",
        "a photo of three crosses",
        "a photo of an orange star",
        "a photo of a circle left of a square",
        "a photo of a red circle and an orange square",
    } <= texts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a star",
        "a photo of",
        "a photo of a",
        "a photo of a hexagon",
        "a photo of a pink star",
        "a photo of five stars",
        "a photo of one star",
        "a photo of two star",
        "a photo of two red stars",
        "a photo of a star and",
        "a photo of a star beside a cross",
        "a photo of a star and a cross and a circle",
        "a photo of a star, a cross",
        "a photo of a star!",
    ],
)
def test_what_is_no_prompt_is_refused_with_what_would_be_one(text):
    with pytest.raises(PromptError, match="a photo of a circle") as error:
        parse_prompt(text)
    assert all(word in str(error.value) for word in (*COLOURS, *SHAPES, *NUMBERS))


@given(st.text(max_size=60))
def test_any_text_is_a_prompt_or_a_prompt_error(text):
    with pytest.raises(PromptError):
        parse_prompt("x" + text)


@given(
    st.lists(
        st.sampled_from(
            ["a", "an", "photo", "of", "red", "cyan", "star", "stars", "two", "and", "left", "right", "above"]
        ),
        max_size=12,
    )
)
def test_what_parses_says_the_same_again(words):
    try:
        spec = parse_prompt("a photo of " + " ".join(words))
    except PromptError:
        return
    assert parse_prompt(spec.text) == spec


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_sampled_prompts_are_of_their_kind_and_never_held_out(kind):
    rng = np.random.default_rng(1)
    known = set(all_prompts(kind))
    for _ in range(300):
        spec = sample_prompt(rng, kind)
        assert spec in known
        assert not spec.is_held_out and not names_held_out(spec.objects)


@pytest.mark.parametrize("kind", [None, "colours", "colour_attribution"])
def test_held_out_prompts_name_a_held_out_combination(kind):
    rng = np.random.default_rng(2)
    drawn = [sample_prompt(rng, kind, held_out=True) for _ in range(300)]
    assert all(spec.is_held_out and names_held_out(spec.objects) for spec in drawn)
    assert {(o.colour, o.shape) for spec in drawn for o in spec.objects} >= HELD_OUT
    if kind is None:
        assert {spec.kind for spec in drawn} == {"colours", "colour_attribution"}


@pytest.mark.parametrize("kind", ["single_object", "two_objects", "counting", "position"])
def test_kinds_without_colours_cannot_be_held_out(kind):
    with pytest.raises(ValueError, match=kind):
        sample_prompt(np.random.default_rng(0), kind, held_out=True)


def test_held_out_takes_one_colour_from_each_shape():
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)
    assert all(colour in COLOURS for colour, _ in HELD_OUT)


def test_random_scenes_hold_no_held_out_combination():
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng) for _ in range(500)]
    assert not any(names_held_out(scene.objects) for scene in scenes)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3, 4}
    seen = {(item.colour, item.shape) for scene in scenes for item in scene.objects}
    assert seen == set(itertools.product(COLOURS, SHAPES)) - HELD_OUT


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_scenes_of_prompts_and_their_edits_hold_no_held_out_combination(kind):
    rng = np.random.default_rng(4)
    for _ in range(120):
        spec = sample_prompt(rng, kind)
        scene = sample_scene_for(rng, spec)
        assert grade(spec, scene.objects).correct
        edited = edit_scene(rng, spec, scene)
        assert not grade(spec, edited.objects).correct
        assert not names_held_out(scene.objects) and not names_held_out(edited.objects)


def test_scenes_of_held_out_prompts_hold_no_other_held_out_combination():
    rng = np.random.default_rng(5)
    for _ in range(150):
        spec = sample_prompt(rng, held_out=True)
        scene = sample_scene_for(rng, spec, extra=0.5)
        asked = {(item.colour, item.shape) for item in spec.objects}
        assert grade(spec, scene.objects).correct
        assert {(item.colour, item.shape) for item in scene.objects} & HELD_OUT <= asked


def test_extra_objects_come_as_often_as_asked():
    rng = np.random.default_rng(6)
    spec = parse_prompt("a photo of a star")
    assert all(len(sample_scene_for(rng, spec, extra=0.0).objects) == 1 for _ in range(50))
    assert all(len(sample_scene_for(rng, spec, extra=1.0).objects) == 2 for _ in range(50))


def assert_apart(scene):
    for item in scene.objects:
        assert item.radius < item.x < IMAGE_SIZE - item.radius
        assert item.radius < item.y < IMAGE_SIZE - item.radius
    for a, b in itertools.combinations(scene.objects, 2):
        assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PROMPT_KINDS))
def test_no_object_touches_another_or_the_border(seed, kind):
    rng = np.random.default_rng(seed)
    spec = sample_prompt(rng, kind)
    scene = sample_scene_for(rng, spec)
    assert_apart(scene)
    assert_apart(edit_scene(rng, spec, scene))
    assert_apart(sample_scene(rng, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PROMPT_KINDS))
def test_what_the_generator_learns_from_stands_in_cells(seed, kind):
    rng = np.random.default_rng(seed)
    spec = sample_prompt(rng, kind)
    scene = sample_scene_for(rng, spec, placing=place_in_cells)
    assert grade(spec, scene.objects).correct
    assert_apart(scene)
    cells = {(int(item.x // 16), int(item.y // 16)) for item in scene.objects}
    assert len(cells) == len(scene.objects)
    for item in scene.objects:
        assert max(abs(item.x % 16 - 8), abs(item.y % 16 - 8)) <= 1.5
        assert 7.5 <= item.radius <= 8.5


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("placing", [place, place_in_cells])
def test_a_scene_holds_one_to_four_objects(placing, count):
    with pytest.raises(ValueError, match=f"not {count}"):
        placing(np.random.default_rng(0), ["star"] * count, ["red"] * count)


LEFT, RIGHT = (16.0, 32.0), (48.0, 32.0)
CASES = [
    ("a photo of a star", ["red star"], True),
    ("a photo of a star", ["red star", "blue star", "white cross"], True),
    ("a photo of a star", ["red cross"], False),
    ("a photo of a star", [], False),
    ("a photo of a star and a cross", ["red star", "red cross"], True),
    ("a photo of a star and a cross", ["red star", "red cross", "red circle"], True),
    ("a photo of a star and a cross", ["red star", "blue star"], False),
    ("a photo of two stars", ["red star", "blue star"], True),
    ("a photo of two stars", ["red star", "blue star", "red circle"], True),
    ("a photo of two stars", ["red star", "blue star", "red star"], False),
    ("a photo of two stars", ["red star"], False),
    ("a photo of four stars", ["red star"] * 4, True),
    ("a photo of four stars", ["red star"] * 3, False),
    ("a photo of a red star", ["red star"], True),
    ("a photo of a red star", ["blue star", "red star"], True),
    ("a photo of a red star", ["blue star", "red cross"], False),
    ("a photo of a red star and a blue cross", ["red star", "blue cross"], True),
    ("a photo of a red star and a blue cross", ["red star", "blue cross", "blue star"], True),
    ("a photo of a red star and a blue cross", ["blue star", "red cross"], False),
    ("a photo of a red star and a blue cross", ["red star"], False),
]


@pytest.mark.parametrize(("prompt", "shown", "correct"), CASES)
def test_grades_by_hand(prompt, shown, correct):
    found = grade(parse_prompt(prompt), [thing(words, 8.0 + 16 * n) for n, words in enumerate(shown)])
    assert found.correct is correct
    assert (found.score == 1.0) is correct
    assert 0.0 <= found.score <= 1.0


@pytest.mark.parametrize(
    ("relation", "star", "cross", "correct"),
    [
        ("left of", LEFT, RIGHT, True),
        ("left of", RIGHT, LEFT, False),
        ("right of", RIGHT, LEFT, True),
        ("right of", LEFT, RIGHT, False),
        ("above", (32, 16), (32, 48), True),
        ("above", (32, 48), (32, 16), False),
        ("below", (32, 48), (32, 16), True),
        ("below", (32, 16), (32, 48), False),
        ("left of", (16, 60), (48, 4), True),
        ("left of", (30, 16), (33, 48), False),
        ("left of", (30, 16), (34, 48), True),
    ],
)
def test_positions_by_hand(relation, star, cross, correct):
    spec = parse_prompt(f"a photo of a star {relation} a cross")
    seen = [thing("red star", *star), thing("blue cross", *cross)]
    assert grade(spec, seen).correct is correct
    assert grade(spec, seen[::-1]).correct is correct
    assert grade(spec, [*seen, thing("white circle", 5, 5)]).correct is correct
    assert not grade(spec, seen[:1]).correct


def test_a_second_object_of_the_kind_can_hold_the_relation():
    spec = parse_prompt("a photo of a star left of a cross")
    wrong = [thing("red star", 48), thing("blue cross", 32)]
    assert not grade(spec, wrong).correct
    assert grade(spec, [*wrong, thing("white star", 12)]).correct


def test_a_relation_between_coloured_objects_is_one_of_those_colours():
    """Not one of the six kinds, but the grammar reads it."""
    spec = parse_prompt("a photo of a red star left of a blue cross")
    assert grade(spec, [thing("red star", 12), thing("blue cross", 48)]).correct
    others = [thing("white star", 12), thing("blue cross", 32), thing("red star", 52)]
    assert not grade(spec, others).correct


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a photo of a star and a star", ["red star"]),
        ("a photo of a red star and a red star", ["red star"]),
        ("a photo of a star and a red star", ["red star", "blue cross"]),
    ],
)
def test_one_object_is_not_two(prompt, shown):
    """Not among the prompts drawn here; the grammar may refuse it, but one object must not satisfy it."""
    try:
        spec = parse_prompt(prompt)
    except PromptError:
        return
    assert not grade(spec, [thing(words) for words in shown]).correct


@pytest.mark.parametrize(
    ("prompt", "shown", "score"),
    [
        ("a photo of a red star", ["blue star"], 1 / 2),
        ("a photo of a red star and a blue cross", ["blue star", "red cross"], 1 / 2),
        ("a photo of a red star and a blue cross", ["red star"], 1 / 2),
        ("a photo of four stars", ["red star"], (1 + 1 / 4) / 2),
        ("a photo of two stars", ["red star"] * 4, (1 + 1 / 2) / 2),
        ("a photo of three stars", [], 0),
        ("a photo of a star and a cross", ["red star"], 1 / 2),
    ],
)
def test_partial_scores_by_hand(prompt, shown, score):
    assert grade(parse_prompt(prompt), [thing(words) for words in shown]).score == pytest.approx(score)
