from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from diffusers_ext.data import Preference
from diffusers_ext.evaluation import Judged, agreement, preference_report
from diffusers_ext.evaluation.bootstrap import interval
from diffusers_ext.evaluation.figures import accuracy_with_ties, calibration_error


def judged(log_odds, choice, prompt="a star", criteria=()):
    return Judged(Preference(prompt, "a.png", "b.png", choice, criteria=criteria), log_odds, -log_odds)


def drawn(count, seed, temperature=1.0):
    """A judge whose log-odds, divided by the temperature, are the true ones."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0.0, 2.0, count)
    chosen = rng.random(count) < 1 / (1 + np.exp(-true))
    return [
        judged(temperature * v, "a" if c else "b", f"prompt {i}")
        for i, (v, c) in enumerate(zip(true, chosen, strict=True))
    ]


def test_accuracy_and_consistency_are_what_counting_gives():
    items = [judged(1.0, "a"), judged(-2.0, "a"), judged(-1.0, "b"), judged(3.0, "tie")]
    items.append(Judged(items[0].record, 2.0, 1.0))  # both orders name the candidate; on the whole a
    report = preference_report(items)
    assert report.figures["accuracy"].value == 3 / 4 and report.figures["accuracy"].n == 4
    assert report.figures["swap-consistency"].value == 4 / 5
    assert report.figures["log-loss"].value == pytest.approx(
        np.mean([np.log1p(np.exp(-v)) for v in (1.0, -2.0, 1.0, 0.5)])
    )


def test_accuracy_with_ties_is_the_best_of_all_thresholds():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(-3, 4, 9).astype(float)
        items = [judged(v, str(rng.choice(["a", "b", "tie"]))) for v in values]

        def right(item, threshold):
            if abs(item.log_odds) < threshold:
                return item.record.choice == "tie"
            return item.right

        best = max(np.mean([right(item, t) for item in items]) for t in (0.0, 0.5, 1.5, 2.5, 3.5))
        assert accuracy_with_ties(items) == pytest.approx(best)


def test_a_calibrated_judge_has_next_to_no_calibration_error_and_a_boastful_one_has():
    assert calibration_error(drawn(20000, 1)) < 0.02
    assert calibration_error(drawn(20000, 1, temperature=4.0)) > 0.1
    bins = preference_report(drawn(2000, 2)).reliability
    assert sum(item.n for item in bins) == 2000
    assert all(a.confidence < b.confidence for a, b in itertools.pairwise(bins))


def test_intervals_are_those_of_the_normal_approximation_where_it_holds():
    items = drawn(3000, 3)
    figure = preference_report(items).figures["accuracy"]
    spread = norm.ppf(0.975) * np.sqrt(figure.value * (1 - figure.value) / 3000)
    assert (figure.high - figure.low) / 2 == pytest.approx(spread, rel=0.15)


def test_records_of_one_prompt_count_as_one_witness():
    """Ten copies of every record tell nothing new, so the interval must not shrink."""
    values = np.random.default_rng(4).random(60)
    alone = interval(lambda i: float(values[i].mean()), list(range(60)))
    copies = np.repeat(values, 10)
    together = interval(lambda i: float(copies[i].mean()), list(np.repeat(np.arange(60), 10)))
    naive = interval(lambda i: float(copies[i].mean()), list(range(600)))
    assert np.subtract(*together) == pytest.approx(np.subtract(*alone), rel=0.05)
    assert np.subtract(*naive) > 0.5 * np.subtract(*alone)


def test_accuracy_is_told_by_criterion():
    items = [judged(1.0, "a", criteria=("motion",)), judged(1.0, "b", criteria=("alignment", "motion"))]
    figures = preference_report(items).figures
    assert figures["accuracy, motion"].value == 0.5 and figures["accuracy, alignment"].value == 0.0


def test_agreement_of_judges():
    one = [judged(v, "a") for v in (1.0, 2.0, -1.0, -3.0)]
    same = [judged(2 * v.log_odds, "a") for v in one]
    mixed = [judged(v, "a") for v in (1.0, -2.0, -1.0, 3.0)]
    found = agreement({"one": one, "same": same, "mixed": mixed})
    assert found["one", "same"].share == found["one", "same"].kappa == 1.0
    assert found["one", "same"].correlation == pytest.approx(1.0)
    assert found["one", "mixed"].share == 0.5 and found["one", "mixed"].kappa == 0.0


def test_nothing_to_measure_gives_no_number():
    report = preference_report([judged(1.0, "tie")])
    assert report.figures["accuracy"].n == 0 and np.isnan(report.figures["accuracy"].value)
    assert report.reliability == ()
