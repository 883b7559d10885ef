from __future__ import annotations

import numpy as np
import pytest

from comfy_nodes.curves import draw_curves

GREEN = (86, 190, 110)


def step(iteration, reward, **figures):
    return {"iteration": iteration, "reward": reward, "reward_deviation": 1.0, "loss": 0.5, **figures}


def places(picture, colour):
    """Rows and columns of a colour's pixels."""
    return np.argwhere((np.asarray(picture) == colour).all(-1))


def test_a_curve_goes_from_left_to_right_and_up_with_the_reward():
    drawn = places(draw_curves([step(0, -1.0), step(5, 0.0), step(10, 3.0)], 10, "some run"), GREEN)
    first, last = (drawn[drawn[:, 1] == column] for column in (drawn[:, 1].min(), drawn[:, 1].max()))
    assert first[:, 0].mean() > last[:, 0].mean() + 80
    assert drawn[:, 1].max() - drawn[:, 1].min() > 380


def test_half_of_a_run_fills_half_of_the_panel():
    whole, half = (places(draw_curves([step(n, float(n)) for n in range(6)], total, ""), GREEN) for total in (5, 10))
    assert np.ptp(half[:, 1]) == pytest.approx(np.ptp(whole[:, 1]) / 2, abs=6)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"evaluation": {"iteration": 0, "reward": 1.0, "group_deviation": None}, "alarms": {}}],
        [step(0, 1.0)],
        [step(n, 1.0) for n in range(3)],
        [step(n, float(n), group_deviation=0.1) for n in range(200)],
    ],
)
def test_there_is_a_picture_of_one_size_whatever_was_told_so_far(entries):
    assert draw_curves(entries, 300, "a run with a name that is longer than the picture is wide" * 3).size == (480, 484)
