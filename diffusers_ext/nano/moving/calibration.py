"""Temperatures for the verdicts of a trained nano reward model of videos."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from ...rewards.model import RewardConfig, RewardModel
from ..calibration import SEED
from ..evaluation import fit_temperature
from .evaluation import OFFSET, judge_pairs, pointwise
from .preferences import sample_pairs
from .questions import SHOWN


def calibrate(folder: Path, size: int = 400) -> RewardConfig:
    """Fit one temperature for pairs and one for single videos, and write them to the folder's `reward_config.json`."""
    RewardConfig(video_frames=SHOWN).save(folder)
    reward_model = RewardModel.from_pretrained(folder)
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(SEED + OFFSET)), size))
    pairwise = [j.log_odds for j in judge_pairs(reward_model, pairs, progress=True)]
    alone, good = pointwise(reward_model, np.random.default_rng(SEED + OFFSET + 1), size, progress=True)
    config = RewardConfig(
        temperature=fit_temperature(pairwise, [pair.better for pair in pairs]),
        pointwise_temperature=fit_temperature([j.log_odds for j in alone], good),
        video_frames=SHOWN,
    )
    config.save(folder)
    return config
