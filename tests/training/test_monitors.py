from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import pdist

from diffusers_ext.training import monitors
from diffusers_ext.training.monitors import Alarms, Evaluation
from diffusers_ext.training.pictures import save_plot

BASE = Evaluation(0, 0, 0.0, -1.0, 2.0, 1.0, 0.2, 0.1, 0.0, 0.5, 0.5, 0.4)
LIMITS = Alarms()


def test_spread_and_diversity_are_those_of_numpy_and_scipy():
    rng = np.random.default_rng(0)
    rewards, images = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4, 3, 5, 5))
    assert monitors.group_deviation(torch.tensor(rewards)) == pytest.approx(rewards.std(1).mean())
    flat = images.reshape(3, 4, -1)
    root = [
        np.sqrt(((group[a] - group[b]) ** 2).mean()) for group in flat for a, b in itertools.combinations(range(4), 2)
    ]
    assert monitors.pixel_diversity(torch.tensor(images)) == pytest.approx(np.mean(root), rel=1e-5)
    cosine = np.mean([pdist(group, "cosine").mean() for group in flat])
    assert monitors.feature_diversity(torch.tensor(flat)) == pytest.approx(cosine, rel=1e-4)


def test_pictures_that_are_all_alike_have_no_diversity():
    image = torch.rand(1, 1, 3, 4, 4).expand(2, 5, 3, 4, 4)
    assert monitors.pixel_diversity(image) == pytest.approx(0.0, abs=1e-3)


def test_a_good_run_raises_no_alarm():
    better = replace(BASE, iteration=20, reward=3.0, second=0.9)
    assert monitors.gap([BASE, better]) == pytest.approx(2.0 - 0.8)
    assert monitors.alarms_of([BASE, better], LIMITS) == {}


def test_a_second_judge_that_falls_while_the_reward_rises_is_an_alarm():
    better = replace(BASE, iteration=20, reward=3.0, second=0.9)
    hacked = replace(BASE, iteration=40, reward=7.0, second=0.6)
    assert "gap" in monitors.alarms_of([BASE, better, hacked], LIMITS)
    # A second judge that only lags behind is none: it has not fallen.
    assert "gap" not in monitors.alarms_of([BASE, better, replace(hacked, second=0.9)], LIMITS)


def test_collapse_is_an_alarm():
    alike = replace(BASE, iteration=20, pixel_diversity=0.1)
    assert "diversity" in monitors.alarms_of([BASE, alike], LIMITS)
    by_features = replace(BASE, iteration=20, feature_diversity=0.05)
    assert "diversity" in monitors.alarms_of([BASE, by_features], LIMITS)
    assert "spread" in monitors.alarms_of([BASE, replace(BASE, iteration=20, group_deviation=0.1)], LIMITS)


def test_distance_that_gains_nothing_is_an_alarm():
    # Rewards and distances of a run of nano-nft that fell apart: nothing is wrong until it has gone far for nothing.
    seen = ((0.44, 0.034), (0.46, 0.042), (0.52, 0.049), (0.607, 0.061), (0.603, 0.08), (0.595, 0.117), (0.606, 0.219))
    history = [BASE]
    for reward, distance in seen:
        assert "drift" not in monitors.alarms_of(history, LIMITS)
        history.append(replace(BASE, iteration=10 * len(history), reward=reward, base_distance=distance))
    assert monitors.alarms_of(history, LIMITS)["drift"].startswith("3.6 times as far from the base as at iteration 40")
    # Who gains by it may go as far as it takes, and further for less than there was is still an alarm.
    assert "drift" not in monitors.alarms_of([*history[:-1], replace(history[-1], reward=0.61)], LIMITS)
    assert "drift" in monitors.alarms_of([*history[:-1], replace(history[-1], reward=0.45)], LIMITS)


def test_an_alarm_must_last_before_a_run_is_stopped():
    alike, fine = replace(BASE, iteration=20, pixel_diversity=0.1), replace(BASE, iteration=30)
    assert monitors.lasting([BASE, alike], LIMITS) == {}
    assert monitors.lasting([BASE, alike, fine], LIMITS) == {}
    assert "diversity" in monitors.lasting([BASE, fine, alike, alike], LIMITS)


def test_the_plot_shows_a_run_with_and_without_a_second_judge(tmp_path):
    history = [replace(BASE, iteration=10 * n, reward=n - 1.0, second=0.5 + 0.02 * n) for n in range(6)]
    steps = [{"iteration": n, "reward": n / 10 - 1} for n in range(50)]
    save_plot(tmp_path / "with.png", history, steps, LIMITS)
    save_plot(tmp_path / "without.png", [replace(item, second=None, held_out=None) for item in history], [], LIMITS)
    with Image.open(tmp_path / "with.png") as one, Image.open(tmp_path / "without.png") as other:
        assert one.size == other.size and np.asarray(one).sum() > np.asarray(other).sum()
