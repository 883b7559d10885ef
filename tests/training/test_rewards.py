from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusers_ext.nano.preferences import sample_group
from diffusers_ext.rewards.images import as_images
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.training.rewards import Judge, JudgeConfig


@pytest.fixture(scope="module")
def judge_asked():
    return RewardModel.default("cpu")


@pytest.fixture(scope="module")
def shown():
    """Four pictures [4, 3, 64, 64] in [0, 1], and their prompt."""
    group = sample_group(np.random.default_rng(5))
    pixels = np.stack([picture.pixels for picture in group.pictures[:4]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, group.spec.text


@pytest.mark.parametrize("explain", [False, True])
def test_a_reward_is_what_the_judge_says_when_it_is_asked_so(judge_asked, shown, explain):
    images, prompt = shown
    judge = Judge(JudgeConfig(explain=explain), judge_asked, "alignment")
    pictures, prompts = as_images(images), [prompt] * 4
    alone = judge_asked.score(pictures, prompts, instruction="alignment", explain=explain)
    assert judge.reward(images, prompts).tolist() == pytest.approx([item.log_odds for item in alone], abs=1e-3)
    turned = [*pictures[1:], pictures[0]]
    beside = judge_asked.compare(pictures, turned, prompts, instruction="alignment", explain=explain)
    assert all((item.explanation is not None) == explain for item in beside)
    found = judge.reward(images, prompts, torch.roll(images, -1, 0))
    assert found.tolist() == pytest.approx([item.log_odds for item in beside], abs=1e-3)
