from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusers_ext.nano.reward_model import ARCHITECTURES, build_model, build_tokenizer, save_processor
from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.model import RewardModel


@pytest.fixture(scope="session")
def nano_tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory, nano_tokenizer) -> Path:
    """A whole reward model on disk, untrained, with weights large enough that every part of it matters."""
    folder = tmp_path_factory.mktemp("untrained-reward")
    torch.manual_seed(0)
    model = build_model(ARCHITECTURES["reward-1m"], nano_tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.12)
    model.save_pretrained(folder)
    save_processor(folder, nano_tokenizer)
    RewardConfig(max_new_tokens=12).save(folder)
    return folder


@pytest.fixture(scope="session")
def nano_judge(nano_folder) -> RewardModel:
    return RewardModel.from_pretrained(nano_folder, device="cpu")
