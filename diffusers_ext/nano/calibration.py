"""Temperatures for the verdicts of a trained nano reward model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..rewards.model import RewardConfig, RewardModel
from .evaluation import fit_temperature, judge_pairs, swapped
from .preferences import good, marks, sample_group, sample_pairs

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
    config = RewardConfig(
        temperature=fit_temperature(pairwise, labels),
        cot_temperature=fit_temperature(explained, labels[: len(fewer)]),
    )
    config = replace(config, pointwise_temperature=_pointwise_temperature(reward_model, size))
    config.save(folder)
    return config


def _pointwise_temperature(reward_model: RewardModel, size: int) -> float:
    rng = np.random.default_rng(SEED + 1)
    log_odds: list[float] = []
    labels: list[bool] = []
    for instruction in ("alignment", "overall"):
        groups = [sample_group(rng) for _ in range(max(1, size // 12))]
        labels += [good(instruction, marks(picture, group.spec)) for group in groups for picture in group.pictures]
        judged = reward_model.score(
            [Image.fromarray(picture.pixels) for group in groups for picture in group.pictures],
            [group.spec.text for group in groups for _ in group.pictures],
            instruction=instruction,
        )
        log_odds += [j.log_odds for j in judged]
    return fit_temperature(log_odds, labels)
