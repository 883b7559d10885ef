from __future__ import annotations

import pytest

from diffusers_ext.training import LoraTraining
from diffusers_ext.training.monitors import Alarms
from diffusers_ext.training.nft import DiffusionNFT
from diffusers_ext.training.rewards import JudgeConfig


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a photo of a red star\na photo of a circle\n\na photo of a blue square\n")
    return path


@pytest.fixture
def config(untrained_pipeline_folder, untrained_model_folder, prompt_file, tmp_path):
    """As small a run as there can be; nothing in it has been trained."""
    return LoraTraining(
        str(tmp_path / "run"),
        algorithm=DiffusionNFT(draws=1),
        pipeline=str(untrained_pipeline_folder),
        prompts=str(prompt_file),
        judges=(JudgeConfig(str(untrained_model_folder), instruction="alignment"),),
        max_sequence_length=1,
        rank=4,
        alpha=8,
        precision="float32",
        iterations=4,
        groups=2,
        group_size=2,
        sampling_steps=2,
        learning_rate=1e-2,
        save_every=2,
        evaluate_every=4,
        evaluation_prompts=str(prompt_file),
        evaluation_count=2,
        evaluation_size=2,
        evaluation_steps=2,
        alarms=Alarms(stop=False),
    )
