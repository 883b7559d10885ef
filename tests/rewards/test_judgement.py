from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.rewards.judgement import Judgement, sigmoid

log_odds_of_any_size = st.floats(-1e4, 1e4)


def judgement(log_odds, **fields):
    return Judgement(log_odds, "overall", ("alignment", "aesthetics"), **fields)


@given(st.floats(1e-12, 1 - 1e-12))
def test_reward_is_the_probability_whose_log_odds_these_are(probability):
    assert judgement(math.log(probability) - math.log1p(-probability)).reward == pytest.approx(probability, rel=1e-9)


@pytest.mark.parametrize(
    ("log_odds", "reward"),
    [
        (0.0, 0.5),
        (math.log(3.0), 0.75),
        (1000.0, 1.0),
        (-1000.0, 0.0),
        (1e308, 1.0),
        (-1e308, 0.0),
        (math.inf, 1.0),
        (-math.inf, 0.0),
    ],
)
def test_reward_at_known_points_and_extremes(log_odds, reward):
    assert judgement(log_odds).reward == pytest.approx(reward, abs=1e-15)


@given(log_odds_of_any_size, log_odds_of_any_size)
def test_reward_lies_in_the_unit_interval_and_grows_with_the_log_odds(first, second):
    low, high = sorted((first, second))
    assert 0.0 <= sigmoid(low) <= sigmoid(high) <= 1.0


@given(log_odds_of_any_size, log_odds_of_any_size)
def test_swapped_is_exactly_antisymmetric(there, back):
    one, other = judgement(there), judgement(back)
    assert one.swapped(other).log_odds == -other.swapped(one).log_odds
    assert one.swapped(other).reward + other.swapped(one).reward == pytest.approx(1.0, abs=1e-15)


def test_swapped_averages_the_log_odds_of_both_orders_and_keeps_the_rest():
    combined = judgement(3.0, candidate=4, reference=2, explanation="sharp").swapped(judgement(-1.0, candidate=9))
    assert combined == judgement(2.0, candidate=4, reference=2, explanation="sharp", debiased=True)


@pytest.mark.parametrize(("log_odds", "verdict"), [(0.1, True), (0.0, False), (-0.1, False)])
def test_verdict_is_the_likelier_answer(log_odds, verdict):
    assert judgement(log_odds).verdict is verdict


def test_as_dict_survives_json():
    original = judgement(math.log(3.0), candidate=1, reference="anchor.png", explanation="ein schöner Stern")
    assert json.loads(json.dumps(original.as_dict())) == {
        "reward": pytest.approx(0.75),
        "verdict": "yes",
        "log_odds": math.log(3.0),
        "instruction": "overall",
        "criteria": ["alignment", "aesthetics"],
        "candidate": 1,
        "reference": "anchor.png",
        "explanation": "ein schöner Stern",
        "debiased": False,
    }
