from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.nano.oracle import detect, judge
from diffusers_ext.nano.packing import Picture as Place
from diffusers_ext.nano.preferences import (
    FLAWED,
    FLAWLESS,
    GROUP,
    INSTRUCTIONS,
    Marks,
    Picture,
    asked_of_all,
    caption,
    flaws,
    good,
    marks,
    misseen,
    preferred,
    rationale,
    sample_conflicts,
    sample_group,
    sample_minimal_pairs,
    sample_pairs,
    statements,
)
from diffusers_ext.nano.render import CLEAN, Degradation, sample_degradation
from diffusers_ext.nano.scenes import (
    HELD_OUT,
    PLURALS,
    Check,
    Grade,
    Scene,
    SceneObject,
    grade,
    parse_prompt,
    sample_prompt,
    sample_scene,
    sample_scene_for,
)
from diffusers_ext.nano.train_reward import RewardRecipe, Writer, asking_rows

SINGULARS = {plural: shape for shape, plural in PLURALS.items()}


def marked(alignment: float, aesthetics: float = 1.0, structure: float = 1.0, shown: int = 1) -> Marks:
    return Marks(Grade((Check("anything", alignment),), asked=1, shown=shown), aesthetics, structure)


UNIT = st.floats(0, 1)
MARKS = st.builds(marked, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), UNIT, UNIT, st.integers(0, 5))


@given(st.sampled_from(INSTRUCTIONS), MARKS, MARKS)
def test_preference_is_antisymmetric(instruction, a, b):
    forward, backward = preferred(instruction, a, b), preferred(instruction, b, a)
    assert (forward is None) == (backward is None)
    if forward is not None:
        assert forward is not backward


@given(st.sampled_from(INSTRUCTIONS), MARKS)
def test_nothing_is_better_than_itself(instruction, a):
    assert preferred(instruction, a, a) is None


@pytest.mark.parametrize(
    ("instruction", "a", "b", "better"),
    [
        ("alignment", marked(1.0, 0.1, 0.1), marked(0.75), True),
        ("alignment", marked(0.5, 1.0, 1.0), marked(0.5, 0.1, 0.1), None),
        ("alignment", marked(0.5, shown=4), marked(0.5), None),
        ("exactness", marked(0.5, 1.0, 1.0), marked(0.5, 0.1, 0.1), None),
        ("exactness", marked(1.0, shown=2), marked(1.0), False),
        ("exactness", marked(1.0, shown=2), marked(0.5), None),
        ("exactness", marked(1.0, shown=2), marked(0.75, shown=2), True),
        ("exactness", marked(1.0, shown=3), marked(0.5), False),
        ("aesthetics", marked(0.0, 0.9), marked(1.0, 0.5), True),
        ("aesthetics", marked(0.0, 0.9), marked(1.0, 0.75), None),
        ("structure", marked(0.0, 0.1, 0.3), marked(1.0, 1.0, 0.9), False),
        ("structure", marked(0.0, 0.1, 0.9), marked(1.0, 1.0, 0.9), None),
        ("overall", marked(1.0, 0.1, 0.1), marked(0.75, 1.0, 1.0), True),
        ("overall", marked(0.5, 0.9, 0.9), marked(0.5, 0.9, 0.3), True),
        ("overall", marked(0.5, 0.6, 0.5), marked(0.5, 0.5, 0.6), None),
    ],
)
def test_preferences_by_hand(instruction, a, b, better):
    assert preferred(instruction, a, b) is better


@given(MARKS, MARKS)
def test_overall_puts_alignment_first(a, b):
    if a.grade.score != b.grade.score:
        assert preferred("overall", a, b) == preferred("alignment", a, b)


def test_instructions_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="beauty"):
        preferred("beauty", marked(1.0), marked(0.0))


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (marked(1.0), (True, True, True, True, True)),
        (marked(0.75), (False, False, True, True, False)),
        (marked(1.0, 0.5), (True, True, False, True, False)),
        (marked(1.0, 1.0, 0.5), (True, True, True, False, False)),
        (marked(1.0, 0.85, 0.85), (True, True, True, True, True)),
        (marked(1.0, shown=2), (True, False, True, True, True)),
    ],
)
def test_good_by_hand(mark, expected):
    assert tuple(good(name, mark) for name in INSTRUCTIONS) == expected


def test_any_flaw_that_is_drawn_makes_a_picture_bad_of_its_side():
    rng = np.random.default_rng(1)
    scene = sample_scene(rng)
    spec = sample_prompt(rng)
    for _ in range(60):
        degradation = sample_degradation(rng)
        mark = marks(Picture.of(scene, degradation, rng), spec)
        visible = flaws(degradation)
        assert good("aesthetics", mark) == (not any(visible[:3]))
        assert good("structure", mark) == (not visible[3])


def test_groups_depend_on_their_seed_alone():
    first, again, other = (sample_group(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.spec == again.spec
    for a, b in zip(first.pictures, again.pictures, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert (a.objects, a.degradation) == (b.objects, b.degradation)
    assert not all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first.pictures, other.pictures, strict=True))


@pytest.mark.parametrize("held_out", [False, True])
def test_groups_hold_right_and_wrong_pictures(held_out):
    rng = np.random.default_rng(7)
    flawed = []
    for _ in range(60):
        group = sample_group(rng, held_out)
        right = [grade(group.spec, picture.objects).correct for picture in group.pictures]
        assert len(right) == 6
        assert right[:4] == [True, True, False, False]
        assert group.spec.is_held_out == held_out
        shown = {(item.colour, item.shape) for picture in group.pictures for item in picture.objects}
        assert bool(shown & HELD_OUT) == held_out
        flawed += [picture.degradation != CLEAN for picture in group.pictures]
    assert 0.35 < np.mean(flawed) < 0.55


def test_pairs_are_labelled_by_the_truth_and_evenly():
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(8)), 200))
    for pair in pairs:
        first, second = marks(pair.candidate, pair.spec), marks(pair.reference, pair.spec)
        assert pair.better is preferred(pair.instruction, first, second)
    assert {pair.instruction for pair in pairs} == set(INSTRUCTIONS)
    assert 0.4 < np.mean([pair.better for pair in pairs]) < 0.6
    only = itertools.islice(sample_pairs(np.random.default_rng(8), instruction="structure"), 20)
    assert {pair.instruction for pair in only} == {"structure"}


@pytest.mark.parametrize("held_out", [False, True])
def test_of_a_minimal_pair_exactly_one_is_right(held_out):
    pairs = list(itertools.islice(sample_minimal_pairs(np.random.default_rng(9), held_out), 150))
    for pair in pairs:
        right = [grade(pair.spec, picture.objects).correct for picture in (pair.candidate, pair.reference)]
        assert right == [pair.better, not pair.better]
        assert pair.instruction == "alignment"
        assert pair.candidate.degradation == pair.reference.degradation
        assert pair.spec.is_held_out == held_out
    assert 0.35 < np.mean([pair.better for pair in pairs]) < 0.65


def test_the_oracle_agrees_with_clean_minimal_pairs():
    pairs = itertools.islice(sample_minimal_pairs(np.random.default_rng(10)), 200)
    clean = [pair for pair in pairs if pair.candidate.degradation == CLEAN]
    seen = [
        judge(pair.candidate.pixels, pair.spec).correct == pair.better
        and judge(pair.reference.pixels, pair.spec).correct != pair.better
        for pair in clean
    ]
    assert len(seen) > 100 and np.mean(seen) >= 0.99


def test_conflicts_come_in_twos_of_opposite_labels():
    found = list(itertools.islice(sample_conflicts(np.random.default_rng(11)), 120))
    for by_prompt, by_looks in zip(found[::2], found[1::2], strict=True):
        assert by_prompt.candidate is by_looks.candidate and by_prompt.reference is by_looks.reference
        assert by_prompt.instruction == "alignment" and by_looks.instruction in ("aesthetics", "structure")
        assert by_prompt.better is not by_looks.better
        for pair in (by_prompt, by_looks):
            first, second = marks(pair.candidate, pair.spec), marks(pair.reference, pair.spec)
            assert pair.better is preferred(pair.instruction, first, second)


def holds_true(statement: str, objects, degradation: Degradation) -> bool:
    """A reading of statements of its own, for what the oracle sees."""
    if statement in FLAWLESS + FLAWED:
        names = FLAWED if statement in FLAWED else FLAWLESS
        return (getattr(degradation, ("blur", "noise", "washout", "breakage")[names.index(statement)]) >= 0.2) == (
            statement in FLAWED
        )
    if statement.startswith("a photo of "):
        asked = statement.removeprefix("a photo of ")
        if match := re.fullmatch(r"an? (\w+) (left of|right of|above|below) an? (\w+)", asked):
            return holds_true("the {} {} the {}".format(*match.groups()), objects, degradation)
        for word, number in (("two", 2), ("three", 3), ("four", 4)):
            asked = re.sub(rf"^{word} ", f"{number} ", asked)
        return all(holds_true(part, objects, degradation) for part in asked.split(" and "))
    if match := re.fullmatch(r"the (\w+) (left of|right of|above|below) the (\w+)", statement):
        first, relation, second = match.groups()
        axis, sign = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}[relation]
        return any(
            sign * (getattr(b, axis) - getattr(a, axis)) > 3
            for a in objects
            for b in objects
            if (a.shape, b.shape) == (first, second) and a is not b
        )
    if match := re.fullmatch(r"(\d) (\w+)", statement):
        return sum(item.shape == SINGULARS[match[2]] for item in objects) == int(match[1])
    *colour, shape = re.fullmatch(r"an? (.*)", statement)[1].split()
    return any(item.shape == shape and item.colour in (colour or [item.colour]) for item in objects)


def test_statements_say_what_clean_pictures_show():
    rng = np.random.default_rng(12)
    agreed, labels = [], []
    for _ in range(120):
        picture = Picture.of(sample_scene(rng), CLEAN, rng)
        seen = detect(picture.pixels)
        found = statements(rng, picture, 8)
        assert len(found) == 8
        agreed += [holds_true(text, seen, CLEAN) == true for text, true in found]
        labels += [true for _, true in found]
    assert np.mean(agreed) >= 0.98
    assert 0.4 < np.mean(labels) < 0.75


def test_statements_are_true_of_the_scene_whatever_its_flaws():
    rng = np.random.default_rng(13)
    for _ in range(80):
        picture = Picture.of(sample_scene(rng), sample_degradation(rng), rng)
        for text, true in statements(rng, picture, 8):
            assert holds_true(text, picture.objects, picture.degradation) == true


@pytest.mark.parametrize("looks", [0.0, 0.5])
def test_what_is_asked_of_all_pictures_is_true_of_some_and_those_show_it(looks):
    rng = np.random.default_rng(15)
    asked, labels = [], []
    for _ in range(60):
        pictures = [Picture.of(sample_scene(rng), sample_degradation(rng, 1), rng) for _ in range(6)]
        text, true = asked_of_all(rng, pictures, looks)
        assert true == tuple(holds_true(text, picture.objects, picture.degradation) for picture in pictures)
        assert 0 < sum(true) < 6
        asked.append(text in (*FLAWED, *FLAWLESS))
        labels += true
    assert 0.2 < np.mean(labels) < 0.8
    assert abs(np.mean(asked) - looks) < 0.25


def test_of_pictures_that_are_all_alike_something_is_asked_too():
    rng = np.random.default_rng(16)
    picture = Picture.of(sample_scene(rng), CLEAN, rng)
    text, true = asked_of_all(rng, [picture, picture])
    assert true[0] == true[1] == holds_true(text, picture.objects, CLEAN)


def test_what_is_asked_is_answered_by_the_truth(nano_tokenizer):
    """Read off the rows' tokens: a statement is about one picture, or parts the two that are shown."""
    rng = np.random.default_rng(9)
    groups = [sample_group(rng) for _ in range(3)]

    def true(statement, index):
        picture = groups[index // GROUP].pictures[index % GROUP]
        return holds_true(statement, picture.objects, picture.degradation)

    alone = compared = 0
    for row in asking_rows(Writer(nano_tokenizer), rng, groups, RewardRecipe(asked=2, compared=3)):
        words = nano_tokenizer.decode([item for item in row.prefix if isinstance(item, int)])
        statement = words.split("Prompt: ")[1].split("\n")[0]
        references = [item.index for item in row.prefix if isinstance(item, Place)]
        for branch in row.branches:
            (index,) = (item.index for item in branch.question if isinstance(item, Place))
            assert nano_tokenizer.decode(branch.answer) == ("yes" if true(statement, index) else "no")
            assert all(true(statement, other) is not true(statement, index) for other in references)
            alone, compared = alone + (not references), compared + len(references)
    assert alone == 3 * 2 * GROUP and compared >= 3 * 3


def test_a_caption_by_hand():
    items = [("star", "red", 50.0, 10.0), ("cross", "blue", 12.0, 30.0), ("circle", "white", 30.0, 60.0)]
    scene = Scene(tuple(SceneObject(s, c, x, y, 8.0, (9, 9, 9), 0.0) for s, c, x, y in items), (20, 20, 20))
    flawed = Degradation(blur=0.5, breakage=1.0)
    picture = Picture.of(scene, flawed, np.random.default_rng(0))
    assert caption(picture) == "blue cross middle, white circle bottom, red star top; blurry, clean, vivid, broken."


def test_captions_say_what_the_oracle_sees_in_clean_pictures():
    rng = np.random.default_rng(14)
    agreed = []
    for _ in range(150):
        picture = Picture.of(sample_scene(rng), CLEAN, rng)
        said, looks = caption(picture).rstrip(".").split("; ")
        assert looks == "sharp, clean, vivid, whole"
        seen = [f"{item.colour} {item.shape}" for item in sorted(detect(picture.pixels), key=lambda item: item.x)]
        agreed.append(sorted(words.rsplit(" ", 1)[0] for words in said.split(", ")) == sorted(seen))
    assert np.mean(agreed) >= 0.98


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_rationales_count_right(instruction):
    rng = np.random.default_rng(15)
    for _ in range(40):
        group = sample_group(rng)
        first, second = group.pictures[0], group.pictures[int(rng.integers(1, 6))]
        text = rationale(instruction, group.spec, first, second)
        assert text.startswith(f"Candidate: {caption(first)} Reference: {caption(second)}")
        tallies = {
            name: [int(number) for number in numbers]
            for name, *numbers in re.findall(r"(\w+): candidate (\d) of (\d), reference (\d) of (\d)\.", text)
        }
        several = {"overall": ["Alignment", "Aesthetics", "Structure"], "exactness": ["Alignment", "Exactness"]}
        assert list(tallies) == several.get(instruction, [instruction.capitalize()])
        for picture, side in ((first, 0), (second, 2)):
            checks = grade(group.spec, picture.objects).checks
            asked = sum(item.count for item in group.spec.objects)
            counted = {
                "Exactness": [min(asked, len(picture.objects)), len(picture.objects)],
                "Alignment": [sum(check.score == 1 for check in checks), len(checks)],
                "Aesthetics": [sum(word in caption(picture) for word in FLAWLESS[:3]), 3],
                "Structure": [int("whole" in caption(picture)), 1],
            }
            for name, numbers in tallies.items():
                assert numbers[side : side + 2] == counted[name]


def test_the_tally_agrees_with_the_verdict():
    """Where a rationale counts more requirements met for one picture, no verdict says the other is better aligned."""
    for pair in itertools.islice(sample_minimal_pairs(np.random.default_rng(16)), 100):
        text = rationale("alignment", pair.spec, pair.candidate, pair.reference)
        mine, total, theirs = re.search(r"candidate (\d) of (\d), reference (\d) of \d", text).groups()
        assert max(mine, theirs) == total and mine != theirs
        assert (mine > theirs) == pair.better


def test_a_rationale_without_a_reference():
    rng = np.random.default_rng(17)
    spec = parse_prompt("a photo of a red star")
    picture = Picture.of(sample_scene_for(rng, spec, extra=0.0), CLEAN, rng)
    text = rationale("overall", spec, picture, None)
    assert re.fullmatch(
        r"Candidate: red star (top|middle|bottom); sharp, clean, vivid, whole\. "
        r"Alignment: 2 of 2\. Aesthetics: 3 of 3\. Structure: 1 of 1\.",
        text,
    )


def test_a_hasty_eye_sees_one_thing_wrongly():
    rng = np.random.default_rng(12)
    for _ in range(40):
        picture = sample_group(rng).pictures[0]
        seen = misseen(rng, picture)
        assert seen.pixels is picture.pixels
        changed = set(seen.objects) ^ set(picture.objects)
        wrong = flaws(seen.degradation) != flaws(picture.degradation)
        assert (len(changed) in (1, 2)) != wrong
        if wrong:
            pairs = zip(flaws(seen.degradation), flaws(picture.degradation), strict=True)
            assert sum(a != b for a, b in pairs) == 1
        else:
            assert caption(seen) != caption(picture)
