from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from diffusers_ext.ranking import bradley_terry


def maximum_likelihood(wins, prior):
    won = np.array(wins, dtype=float)
    np.fill_diagonal(won, 0.0)

    def loss(strengths):
        gaps = strengths[:, None] - strengths[None, :]
        return -(won * log_expit(gaps)).sum() - prior * (log_expit(strengths) + log_expit(-strengths)).sum()

    def gradient(strengths):
        lost = won * expit(strengths[None, :] - strengths[:, None])
        return lost.sum(0) - lost.sum(1) - prior * (1 - 2 * expit(strengths))

    found = minimize(loss, np.zeros(len(won)), jac=gradient, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000})
    return found.x


squares = st.integers(1, 6).flatmap(lambda size: arrays(np.float64, (size, size), elements=st.floats(0, 10, width=16)))


@settings(max_examples=40, deadline=None)
@given(squares, st.sampled_from([0.1, 0.5, 2.0]))
def test_strengths_maximise_the_penalised_likelihood(wins, prior):
    assert bradley_terry(wins, prior) == pytest.approx(maximum_likelihood(wins, prior), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_known_strengths_are_recovered_from_exact_outcomes(seed):
    strengths = np.random.default_rng(seed).normal(0.0, 1.5, 8)
    wins = 1000.0 * expit(strengths[:, None] - strengths[None, :])
    found = bradley_terry(wins, prior=1e-6)
    assert found - found[0] == pytest.approx(strengths - strengths[0], abs=1e-3)  # outcomes fix the differences only


def test_known_strengths_are_recovered_from_counted_outcomes():
    rng = np.random.default_rng(0)
    strengths = np.array([-1.5, -0.5, 0.0, 0.7, 1.3])
    wins = np.zeros((5, 5))
    for first in range(5):
        for second in range(first + 1, 5):
            wins[first, second] = rng.binomial(4000, expit(strengths[first] - strengths[second]))
            wins[second, first] = 4000 - wins[first, second]
    found = bradley_terry(wins)
    assert found - found[2] == pytest.approx(strengths, abs=0.12)
    assert found == pytest.approx(maximum_likelihood(wins, 0.1), abs=1e-3)


def test_two_players_follow_the_closed_form():
    strengths = bradley_terry(np.array([[0.0, 9.0], [3.0, 0.0]]), prior=1e-8)
    assert strengths[0] - strengths[1] == pytest.approx(np.log(3.0), abs=1e-4)


def test_swapping_wins_and_losses_negates_the_strengths():
    wins = np.random.default_rng(1).random((6, 6))
    assert bradley_terry(wins) == pytest.approx(-bradley_terry(wins.T), abs=1e-6)


def test_who_always_wins_stays_finite_and_on_top():
    strengths = bradley_terry(np.array([[0, 5, 5], [0, 0, 5], [0, 0, 0]]))
    assert np.isfinite(strengths).all()
    assert strengths[0] > strengths[1] > strengths[2]


def test_the_diagonal_and_the_argument_are_left_alone():
    wins = np.array([[7.0, 2.0], [1.0, 9.0]])
    before = wins.copy()
    assert bradley_terry(wins) == pytest.approx(bradley_terry(np.array([[0.0, 2.0], [1.0, 0.0]])))
    assert np.array_equal(wins, before)


@pytest.mark.parametrize(
    "wins",
    [
        np.zeros((2, 3)),
        np.zeros(4),
        np.array([[0, -1.0], [1, 0]]),
        np.array([[0, np.nan], [1, 0]]),
        np.full((2, 2), np.inf),
    ],
)
def test_what_is_no_table_of_wins_is_refused(wins):
    with pytest.raises(ValueError, match="square array of finite numbers"):
        bradley_terry(wins)
