"""Temperatures for the verdicts of a trained nano reward model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from ..rewards.model import RewardConfig, RewardModel
from .evaluation import fit_temperature, judge_pairs, pointwise, swapped
from .preferences import sample_pairs

SEED = 10_000_000
"""Where calibration data begin: apart from those of training and of evaluation."""


def calibrate(folder: Path, size: int = 1000) -> RewardConfig:
    """Fit one temperature for each kind of question and write them to the folder's `reward_config.json`.

    Pairwise rewards are calibrated as they are given by default, after debiasing by the swapped order.
    """
    RewardConfig().save(folder)
    reward_model = RewardModel.from_pretrained(folder)
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(SEED)), size))
    labels = [pair.better for pair in pairs]
    pairwise = [j.log_odds for j in judge_pairs(reward_model, pairs, progress=True)]
    fewer = pairs[: max(10, size // 4)]
    explained = [
        first.swapped(second).log_odds
        for first, second in zip(
            judge_pairs(reward_model, fewer, debias=False, explain=True, progress=True),
            judge_pairs(reward_model, [swapped(pair) for pair in fewer], debias=False, explain=True, progress=True),
            strict=True,
        )
    ]
    alone, good_ones = pointwise(reward_model, np.random.default_rng(SEED + 1), size)
    config = RewardConfig(
        temperature=fit_temperature(pairwise, labels),
        pointwise_temperature=fit_temperature([j.log_odds for j in alone], good_ones),
        cot_temperature=fit_temperature(explained, labels[: len(fewer)]),
    )
    config.save(folder)
    return config
