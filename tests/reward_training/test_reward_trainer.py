from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusers_ext.configuring import plain
from diffusers_ext.data import locate
from diffusers_ext.evaluation import judge_preferences
from diffusers_ext.reward_training import RewardTraining, TrainingError, train_reward_model
from diffusers_ext.reward_training.adapting import open_weights
from diffusers_ext.rewards.bradley_terry import BradleyTerryModel
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.instructions import load_instructions
from diffusers_ext.rewards.model import RewardModel


@pytest.fixture
def config(preferences, untrained_model_folder, tmp_path):
    return RewardTraining(
        (str(preferences / "train.jsonl"),),
        str(tmp_path / "run"),
        model=str(untrained_model_folder),
        weights="full",
        steps=4,
        batch_size=4,
        micro_batch_size=2,
        learning_rate=1e-3,
        warmup=1,
        precision="float32",
        checkpointing=False,
        save_every=2,
    )


def elsewhere(config, tmp_path, **changes):
    return replace(config, out=str(tmp_path / "other"), **changes)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **(tolerance or {"rtol": 0, "atol": 0}))


def write_config(config, path):
    path.write_text(yaml.safe_dump(plain(config)))
    return path


@pytest.mark.parametrize("objective", ["generative", "bradley-terry"])
def test_it_learns_what_people_prefer(config, preferences, objective):
    questions = "pairwise" if objective == "generative" else "pointwise"
    held = str(preferences / "held.jsonl")
    run = replace(config, objective=objective, questions=questions, steps=25, validation=held, validate_every=25)
    out = train_reward_model(run)
    judge = RewardModel.from_pretrained(out)
    assert isinstance(judge, BradleyTerryModel) == (objective == "bradley-terry")
    judged = judge_preferences(judge, locate([held])[0])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert np.mean([item.right for item in judged]) == lines[-1]["validation_accuracy"] >= 5 / 6
    assert np.mean([line["loss"] for line in lines[-5:]]) < 0.7 * lines[0]["loss"]
    card = (out / "README.md").read_text()
    assert f"**{lines[-1]['validation_accuracy']:.3f}**" in card and "12 preferences" in card


def test_a_run_that_is_gone_on_with_ends_as_one_that_was_never_stopped(config, tmp_path):
    """The schedule of the learning rate depends on the steps in all, so here it is the state that is cut short."""
    whole = train_reward_model(config)
    stopped = elsewhere(config, tmp_path)
    train_reward_model(stopped)
    first = torch.load(tmp_path / "other" / "training.pt", weights_only=True)
    assert first["step"] == 4
    halfway = elsewhere(config, tmp_path, save_every=100)
    for file in (tmp_path / "other").iterdir():
        file.unlink()
    interrupted = InterruptedRun(halfway, after=2)
    interrupted.run()
    assert not (tmp_path / "other" / "model.safetensors").exists()
    train_reward_model(halfway)
    same(weights_of(whole), weights_of(tmp_path / "other"))
    steps = [json.loads(line)["step"] for line in (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


class InterruptedRun:
    """A run that is stopped from the keyboard once some steps are done."""

    def __init__(self, config, after):
        self.config, self.after = config, after

    def run(self):
        from diffusers_ext.reward_training import trainer

        real, count = trainer._step, 0

        def counted(*arguments):
            nonlocal count
            if count == self.after:
                raise KeyboardInterrupt
            count += 1
            return real(*arguments)

        trainer._step = counted
        try:
            with pytest.raises(KeyboardInterrupt):
                train_reward_model(self.config)
        finally:
            trainer._step = real


@pytest.mark.parametrize(
    ("name", "message"), [("wandbb", "'wandbb' is none of"), ("clearml", "clearml is not installed")]
)
def test_trackers_that_are_not_there_are_refused_before_anything_is_made(config, name, message):
    with pytest.raises(TrainingError, match=message):
        train_reward_model(replace(config, trackers=(name,)))
    assert not Path(config.out).exists()


def test_a_resumed_run_of_another_configuration_is_refused(config):
    train_reward_model(replace(config, steps=2))
    with pytest.raises(TrainingError, match=r"seed: 0 -> 5"):
        train_reward_model(replace(config, seed=5))


def test_a_loss_that_is_not_finite_names_its_records_and_keeps_the_last_state(config, preferences):
    out = train_reward_model(replace(config, steps=2))
    before = (out / "training.pt").read_bytes()
    state = torch.load(out / "training.pt", weights_only=True)
    assert state["step"] == 2
    with pytest.raises(TrainingError, match=r"loss of step \d+ is (nan|inf)(.|\n)*row \d+: 'a photo of a star'"):
        train_reward_model(replace(config, out=str(out) + "-hot", learning_rate=1e30, clip=1e30, steps=20))
    assert (out / "training.pt").read_bytes() == before


def test_a_full_disk_leaves_the_state_before(config, tmp_path):
    out = train_reward_model(replace(config, steps=2))
    before = (out / "training.pt").read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(TrainingError, match="could not be written"):
            train_reward_model(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (out / "training.pt").read_bytes() == before and not list(out.glob("*.partial"))
    train_reward_model(config)


def test_an_adapter_is_merged_into_a_model_like_any_other(config, preferences, untrained_judge):
    run = replace(config, weights="lora", rank=4, steps=12, learning_rate=3e-3)
    out = train_reward_model(run)
    items = locate([preferences / "held.jsonl"])[0]
    judge = RewardModel.from_pretrained(out)
    merged = [item.log_odds for item in judge_preferences(judge, items)]
    base = [item.log_odds for item in judge_preferences(untrained_judge, items)]
    assert np.abs(np.subtract(merged, base)).max() > 0.1
    state = torch.load(out / "training.pt", weights_only=True)
    assert all("lora_" in name for name in state["learned"]), "the base is frozen"
    again = RewardModel.from_pretrained(run.model)
    open_weights(again, run)
    parameters = dict(again.model.named_parameters())
    with torch.no_grad():
        for name, value in state["learned"].items():
            parameters[name.removeprefix("model.")].copy_(value)
    apart = [item.log_odds for item in judge_preferences(again, items)]
    np.testing.assert_allclose(merged, apart, atol=1e-3)


def test_targets_that_match_nothing_are_told_what_there_is(config):
    with pytest.raises(TrainingError, match=r"to_q match no layer; there are .*q_proj"):
        train_reward_model(replace(config, weights="lora", targets=("to_q",)))


def test_an_adapter_over_quantized_weights_stays_one_and_loads(config, preferences):
    pytest.importorskip("bitsandbytes")
    run = replace(config, weights="lora", rank=4, quantization="nf4", steps=6, learning_rate=3e-3)
    out = train_reward_model(run)
    assert not (out / "model.safetensors").exists()
    judge = RewardModel.from_pretrained(out, quantization="nf4")
    items = locate([preferences / "held.jsonl"])[0]
    values = [item.log_odds for item in judge_preferences(judge, items)]
    base = RewardModel.from_pretrained(run.model, quantization="nf4")
    assert np.abs(np.subtract(values, [item.log_odds for item in judge_preferences(base, items)])).max() > 0.05
    (out / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="does not fit"):
        RewardModel.from_pretrained(out, quantization="nf4")


def command(path, processes=1):
    launched = (
        [] if processes == 1 else ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
    )
    return [sys.executable, *launched, "-m", "diffusers_ext.cli", "train-reward", str(path)]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(config, tmp_path):
    whole = train_reward_model(replace(config, steps=12))
    other = elsewhere(config, tmp_path, steps=12)
    path = write_config(other, tmp_path / "run.yaml")
    state = tmp_path / "other" / "training.pt"
    process = subprocess.Popen(command(path))
    while not state.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "other" / "model.safetensors").exists()
    subprocess.run(command(path), check=True)
    same(weights_of(whole), weights_of(tmp_path / "other"))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(config, tmp_path):
    whole = train_reward_model(config)
    path = write_config(elsewhere(config, tmp_path), tmp_path / "run.yaml")
    subprocess.run([*command(path, processes=2)], check=True, timeout=300)
    same(weights_of(whole), weights_of(tmp_path / "other"), rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_a_hundred_votes_teach_the_shipped_judge_a_new_criterion(tmp_path):
    """A voter who likes warm colours, by way of the vote store; half of the benchmark's steps, and a lower bar."""
    from benchmarks.votes import cast, configuration

    train, held = cast(tmp_path, "votes", 1, 100), cast(tmp_path, "held", 2, 120)
    config = configuration(tmp_path, train, steps=50)
    own = load_instructions(config.instructions)
    items = locate([held])[0]
    before = np.mean([item.right for item in judge_preferences(RewardModel.default(), items, own=own)])
    judge = RewardModel.from_pretrained(train_reward_model(config))
    after = np.mean([item.right for item in judge_preferences(judge, items, own=own)])
    assert before < 0.65 and after > max(0.7, before + 0.1)
