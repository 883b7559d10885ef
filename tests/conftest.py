from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def untrained_model_folder(tmp_path_factory):
    from diffusers_ext.nano.reward_model import ARCHITECTURES, build_model, build_tokenizer, save_processor

    folder = tmp_path_factory.mktemp("models") / "untrained"
    folder.mkdir()
    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(ARCHITECTURES["reward-1m"], tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)  # as it is drawn, it hardly sees the pictures
    model.save_pretrained(folder)
    save_processor(folder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def untrained_judge(untrained_model_folder):
    from diffusers_ext.rewards.model import RewardModel

    return RewardModel.from_pretrained(untrained_model_folder, device="cpu")


@pytest.fixture(scope="session")
def untrained_pipeline_folder(tmp_path_factory):
    from diffusers_ext.nano.autoencoder import build_autoencoder
    from diffusers_ext.nano.generator import build_pipeline

    folder = tmp_path_factory.mktemp("pipelines") / "untrained"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = build_pipeline(build_autoencoder())
    with torch.no_grad():  # as it is drawn, it paints all but black
        pipeline.vae.decoder.layers[-1].weight.mul_(10.0)
        pipeline.vae.decoder.layers[-1].bias.add_(0.5)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def untrained_pipeline(untrained_pipeline_folder):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(untrained_pipeline_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pictures():
    rng = np.random.default_rng(0)
    shades = [
        (colour + rng.normal(0.0, 40.0, (64, 64, 3))).clip(0, 255).astype(np.uint8)
        for colour in rng.integers(0, 256, (6, 1, 1, 3))
    ]
    return [Image.fromarray(shade) for shade in shades]


@pytest.fixture
def picture_files(pictures, tmp_path):
    files = [tmp_path / f"picture{index}.png" for index in range(len(pictures))]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    return files


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def rewarddance(monkeypatch, capfd):
    from diffusers_ext.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rewarddance", *(str(argument) for argument in arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Outcome(stop.value.code or 0, *capfd.readouterr())

    return run
