from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from diffusers_ext.cli import app
from diffusers_ext.nano.export import export_reward_model
from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.model import RewardModel

COMMANDS = (
    "train-autoencoder",
    "train-generator",
    "draw-pool",
    "draw-contenders",
    "train-reward",
    "calibrate",
    "export",
)


def run(*arguments):
    return CliRunner().invoke(app, ["nano", *map(str, arguments)])


def test_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_an_unknown_command_is_refused():
    assert run("train-everything").exit_code == 2


def test_what_is_exported_judges_as_before(nano_folder, nano_judge, tmp_path):
    source = tmp_path / "trained"
    source.mkdir()
    for path in nano_folder.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    torch.save({"step": 1}, source / "training.pt")
    RewardConfig(temperature=2.0).save(source)
    export_reward_model(source, tmp_path / "shipped")
    assert not (tmp_path / "shipped" / "training.pt").exists()
    weights = load_file(tmp_path / "shipped" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    shipped = RewardModel.from_pretrained(tmp_path / "shipped", device="cpu")
    assert shipped.model.dtype == torch.float32
    assert shipped.config.temperature == 2.0
    torch.manual_seed(0)
    pictures = torch.rand(4, 3, 64, 64)
    before = [2.0 * j.log_odds for j in nano_judge.compare(pictures[:3], pictures[3], "a photo of a red star")]
    after = [4.0 * j.log_odds for j in shipped.compare(pictures[:3], pictures[3], "a photo of a red star")]
    assert after == pytest.approx(before, abs=0.05)


@pytest.mark.slow
def test_a_judge_is_trained_from_the_command_line(tmp_path):
    folder = tmp_path / "judge"
    options = ["--architecture", "reward-1m", "--steps", 3, "--vision-steps", 1, "--caption-steps", 1]
    result = run("train-reward", folder, *options)
    assert result.exit_code == 0, result.output
    assert (folder / "training.pt").is_file()
    picture = torch.rand(3, 64, 64)
    (judgement,) = RewardModel.from_pretrained(folder, device="cpu").score(picture, "a photo of a star")
    assert 0 < judgement.reward < 1
