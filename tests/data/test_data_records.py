from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_samples import paths, preferences

from diffusers_ext.data import InvalidRecordError, Preference, Problem, Rating, Source, pairs_from_ratings
from diffusers_ext.rewards.errors import RewardDanceError

GOOD = {"prompt": "a red star", "a": "a.png", "b": "b.png", "choice": "a"}


@given(preferences() | preferences(st.binary(min_size=1, max_size=20)))
@settings(max_examples=100, deadline=None)
def test_rows_give_back_the_record(record):
    assert Preference.from_row(record.as_row()) == record


@given(preferences(paths()))
@settings(deadline=None)
def test_swapping_twice_changes_nothing_but_the_rationale(record):
    swapped = record.swapped()
    assert (swapped.a, swapped.b, swapped.signed_strength) == (record.b, record.a, -record.signed_strength)
    assert swapped.rationale is None
    assert {**swapped.swapped().as_row(), "rationale": None} == {**record.as_row(), "rationale": None}


@pytest.mark.parametrize(
    ("change", "field", "complaint"),
    [
        ({"prompt": None}, "prompt", "is missing"),
        ({"prompt": 3}, "prompt", "is 3; expected a text"),
        ({"prompt": " \n"}, "prompt", "is empty"),
        ({"prompt": "half \ud800"}, "prompt", "surrogate"),
        ({"a": None}, "a", "is missing"),
        ({"b": ""}, "b", "is no path"),
        ({"a": b""}, "a", "is empty"),
        ({"a": 7}, "a", "expected a path"),
        ({"a": "x\0.png"}, "a", "is no path"),
        ({"a": "/data/a.png"}, "a", "absolute path"),
        ({"a": "C:\\data\\a.png"}, "a", "absolute path"),
        ({"a": "https://example.org/a.png"}, "a", "nothing is fetched"),
        ({"b": "a.png"}, "b", "the very medium"),
        ({"first_frame": "/data/a.png"}, "first_frame", "absolute path"),
        ({"first_frame": b""}, "first_frame", "is empty"),
        ({"frist_frame": "a.png"}, "frist_frame", "did you mean 'first_frame'"),
        ({"choice": None}, "choice", "is None; expected 'a', 'b' or 'tie'"),
        ({"choice": "A"}, "choice", "is 'A'; expected"),
        ({"choice": 1}, "choice", "is 1; expected"),
        ({"strength": 1.5}, "strength", "is 1.5; expected between 0 and 1"),
        ({"strength": -0.1}, "strength", "between 0 and 1"),
        ({"strength": math.nan}, "strength", "expected a number"),
        ({"strength": True}, "strength", "expected a number"),
        ({"strength": "strong"}, "strength", "expected a number"),
        ({"choice": "tie", "strength": 0.5}, "strength", "for a tie"),
        ({"margin": -1}, "margin", "expected 0 or more"),
        ({"margin": math.inf}, "margin", "expected a number"),
        ({"margin": 10**400}, "margin", "expected a number"),
        ({"criteria": "alignment"}, "criteria", "expected a list of names"),
        ({"criteria": ["alignment", ""]}, "criteria", "expected a list of names"),
        ({"criteria": [3]}, "criteria", "expected a list of names"),
        ({"instruction": 3}, "instruction", "expected a text"),
        ({"rationale": ""}, "rationale", "expected a text, or leave it out"),
        ({"source": "HPDv2"}, "source", "no name of a data set"),
        ({"source": {"row": "3"}}, "source", "no name of a data set"),
        ({"source": {"dataset": "HPDv2", "row": 3}}, "source", "that is no text"),
        ({"choise": "a"}, "choise", "did you mean 'choice'"),
        ({"strenght": 0.3}, "strenght", "did you mean 'strength'"),
    ],
)
def test_every_kind_of_bad_field_is_named(change, field, complaint):
    with pytest.raises(InvalidRecordError) as caught:
        Preference.from_row({**GOOD, **change})
    (found,) = caught.value.complaints
    assert found.field == field
    assert complaint in found.message
    assert isinstance(caught.value, RewardDanceError)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InvalidRecordError) as caught:
        Preference.from_row({"prompt": "", "a": "a.png", "choice": "left", "margin": -2, "rationnale": "x"})
    assert {item.field for item in caught.value.complaints} == {"prompt", "b", "choice", "margin", "rationnale"}


def test_other_fields_are_ignored_and_numbers_may_be_whole():
    found = Preference.from_row({**GOOD, "user_id": 3, "strength": 1, "margin": 2, "source": {"dataset": "mine"}})
    assert (found.strength, found.margin, found.source) == (1.0, 2.0, Source("mine"))
    assert found == Preference.from_row(json.loads(json.dumps(found.as_row())))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rating": None}, "rating"),
        ({"rating": math.nan}, "rating"),
        ({"rating": 6}, "rating"),
        ({"scale": [5, 1]}, "scale"),
        ({"scale": [1]}, "scale"),
        ({"scale": "1-5"}, "scale"),
        ({"medium": None}, "medium"),
        ({"prompt": " "}, "prompt"),
        ({"criteria": "x"}, "criteria"),
    ],
)
def test_bad_ratings_are_named(change, field):
    row = {"prompt": "a fox", "medium": "fox.png", "rating": 3, "scale": [1, 5]}
    assert Rating.from_row(row) == Rating("a fox", "fox.png", 3.0, (1, 5))
    with pytest.raises(InvalidRecordError) as caught:
        Rating.from_row({**row, **change})
    assert [item.field for item in caught.value.complaints] == [field]


@given(st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("uvwxyz"), st.integers(1, 4)), max_size=14))
@settings(deadline=None)
def test_ratings_become_all_pairs_that_differ(given_ratings):
    ratings = [Rating(prompt, medium, rating, (1.0, 4.0)) for prompt, medium, rating in given_ratings]
    expected = {}
    for prompt in "pq":
        means = {}
        for medium in "uvwxyz":
            scores = [score for p, m, score in given_ratings if (p, m) == (prompt, medium)]
            if scores:
                means[medium] = sum(scores) / len(scores)
        for a in means:
            for b in means:
                if means[a] > means[b]:
                    expected[prompt, a, b] = means[a] - means[b]
    found = {}
    for pair in pairs_from_ratings(ratings):
        better, worse = (pair.a, pair.b) if pair.choice == "a" else (pair.b, pair.a)
        found[pair.prompt, better, worse] = pair.margin
        assert pair.strength == pytest.approx(pair.margin / 3)
    assert found == pytest.approx(expected)


def test_ratings_of_other_criteria_prompts_or_scales_are_not_compared():
    ratings = [
        Rating("a fox", "1.png", 1.0, criteria=("x",)),
        Rating("a fox", "2.png", 2.0, criteria=("y",)),
        Rating("a fox", "3.png", 3.0, (0.0, 9.0), criteria=("x",)),
        Problem("file", 4, "rating", "is bad"),
        Rating("A  FOX", "5.png", 2.5, criteria=("x",), source=Source("mine", "5")),
        Rating("a fox", "6.png", 2.0, criteria=("x",), source=Source("mine", "6", "MIT")),
    ]
    found = list(pairs_from_ratings(ratings))
    assert found[0] is ratings[3]
    (pair,) = found[1:]
    assert (pair.a, pair.b, pair.choice, pair.margin, pair.strength) == ("5.png", "6.png", "a", 0.5, None)
    assert pair.source == Source("mine", "5 6", None)
