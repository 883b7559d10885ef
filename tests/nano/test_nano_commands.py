from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from safetensors.torch import load_file
from typer.testing import CliRunner

from diffusers_ext.cli import app
from diffusers_ext.nano import DEFAULT_PIPELINE, DEFAULT_REWARD_MODEL, DEFAULT_VIDEO_REWARD_MODEL
from diffusers_ext.nano.evaluation import generate
from diffusers_ext.nano.export import export_reward_model
from diffusers_ext.nano.generated import Pool, shows_held_out
from diffusers_ext.nano.reward_model import ARCHITECTURES, build_model, build_tokenizer, save_processor
from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.training.saving import save_lora

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


def test_every_size_is_exported_under_its_name(tmp_path):
    for name in ("reward-200k", "reward-400k"):
        tokenizer = build_tokenizer()
        build_model(ARCHITECTURES[name], tokenizer).save_pretrained(tmp_path / name[::-1])
        save_processor(tmp_path / name[::-1], tokenizer)
    shipped = tmp_path / "shipped"
    common = ("--reward-model", DEFAULT_REWARD_MODEL, "--video-reward-model", DEFAULT_VIDEO_REWARD_MODEL)
    smaller = (f"--smaller={tmp_path / name}" for name in ("k002-drawer", "k004-drawer"))
    result = run("export", *common, "--generator", DEFAULT_PIPELINE, "--out", shipped, *smaller)
    assert result.exit_code == 0, result.output
    made = {path.name for path in shipped.iterdir()}
    assert made == {"generator", "reward-200k", "reward-400k", "reward-5m", "video-reward-5m"}
    counts = [
        RewardModel.from_pretrained(shipped / f"reward-{size}").model.num_parameters() for size in ("200k", "400k")
    ]
    assert counts == pytest.approx([200e3, 420e3], rel=0.05)


def test_a_pool_is_painted_by_as_much_of_a_lora_as_was_asked_for(tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    torch.manual_seed(0)
    pipeline.transformer.add_adapter(lora)
    for name, weight in pipeline.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=2.0)
    save_lora(tmp_path, pipeline.transformer, "transformer", "StableDiffusion3Pipeline", lora, {})
    common = ("--pipeline", DEFAULT_PIPELINE, "--groups", 1, "--painting-steps", 2, "--seed", 3)
    half = run("draw-pool", tmp_path / "half.npz", *common, "--lora", tmp_path, "--lora-weight", 0.5)
    none = run("draw-pool", tmp_path / "none.npz", *common)
    assert (half.exit_code, none.exit_code) == (0, 0)
    pools = {name: Pool.load(tmp_path / f"{name}.npz") for name in ("half", "none")}
    (text,) = pools["half"].prompts
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "max_sequence_length": 1}
    for name, share in (("half", 0.5), ("none", 0.0)):
        # diffusers scales what it has not fused by this option of its own
        shown = generate(
            pipeline, [text] * 6, range(4_000_000, 4_000_006), joint_attention_kwargs={"scale": share}, **options
        )
        kept = [pixels for pixels in map(np.asarray, shown) if not shows_held_out(pixels)]
        difference = np.stack(kept).astype(int) - pools[name].pixels[0, : len(kept)]
        assert np.abs(difference).max() <= 2
    assert np.abs(pools["half"].pixels.astype(int) - pools["none"].pixels).mean() > 2


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
