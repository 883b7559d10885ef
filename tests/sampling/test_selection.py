from __future__ import annotations

import numpy as np
import pytest

from diffusers_ext.sampling import SamplingError, beam, effective_sample_size, feynman_kac, systematic

RNG = np.random.default_rng(0)


def test_systematic_resampling_is_unbiased_and_off_by_less_than_one():
    weights = np.array([0.5, 0.05, 0.25, 0.2])
    rng = np.random.default_rng(1)
    counts = np.array([np.bincount(systematic(weights, rng), minlength=4) for _ in range(4000)])
    assert np.abs(counts - 4 * weights).max() < 1
    assert np.abs(counts.mean(0) - 4 * weights).max() < 0.03


def test_effective_sample_size():
    assert effective_sample_size(np.zeros(5)) == pytest.approx(5)
    assert effective_sample_size(np.array([0.0, -800.0, -800.0])) == pytest.approx(1)
    assert effective_sample_size(np.log([0.5, 0.25, 0.25])) == pytest.approx(1 / (0.25 + 2 * 0.0625))


def test_a_beam_keeps_the_best_and_shares_the_room():
    rewards = np.array([[9.0, 9.0, 9.0, 9.0, 9.0], [0.1, 3.0, -1.0, 2.0, 2.5]])
    chosen = beam(2)(rewards, np.zeros(5), RNG)
    assert chosen.parents.tolist() == [1, 4, 1, 4, 1]
    assert beam(9)(rewards, np.zeros(5), RNG).parents.tolist() == [1, 4, 3, 0, 2]


@pytest.mark.parametrize(
    ("potential", "total"),
    [("difference", lambda past: past[-1]), ("max", lambda past: past.max(0)), ("sum", lambda past: past.sum(0))],
)
def test_potentials_add_up_to_what_they_promise(potential, total):
    past = np.random.default_rng(2).normal(size=(4, 6))
    select = feynman_kac(0.7, potential, threshold=0.0)
    weights = np.zeros(6)
    for checks in range(1, 5):
        chosen = select(past[:checks], weights, RNG)
        assert chosen.parents.tolist() == list(range(6))
        weights = chosen.log_weights
    assert np.allclose(weights, 0.7 * total(past))


def test_uneven_weights_are_resampled_and_even_ones_left_alone():
    select = feynman_kac(1.0, threshold=0.5)
    alike = select(np.zeros((1, 4)), np.zeros(4), RNG)
    assert alike.parents.tolist() == [0, 1, 2, 3]
    uneven = select(np.array([[0.0, 30.0, 0.0, 0.0]]), np.zeros(4), RNG)
    assert uneven.parents.tolist() == [1, 1, 1, 1]
    assert not uneven.log_weights.any()


@pytest.mark.parametrize(
    "wrong",
    [lambda: beam(0), lambda: feynman_kac(-1.0), lambda: feynman_kac(1.0, "hope"), lambda: feynman_kac(1, "max", 2)],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(SamplingError):
        wrong()
