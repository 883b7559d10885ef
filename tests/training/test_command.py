from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
import yaml
from typer.testing import CliRunner

from diffusers_ext.cli.training import train_lora
from diffusers_ext.configuring import plain
from diffusers_ext.training import LoraTrainingError, read_config
from diffusers_ext.training import train_lora as train
from diffusers_ext.training.distillation import GuidanceDistillation


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(train_lora)
    return lambda *arguments: CliRunner().invoke(app, [str(item) for item in arguments])


def test_a_run_from_a_file(command, config, tmp_path):
    train(replace(config, iterations=1, precision="float32"))  # a process may train in one precision after another
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain(replace(config, trackers=("tensorboard",), precision="bfloat16"))))
    found = command(path, "--iterations", 1, "--out", tmp_path / "there", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    lines = (tmp_path / "there" / "metrics.jsonl").read_text().splitlines()
    alarms = [json.loads(line)["alarms"] for line in lines if "evaluation" in line][-1]
    assert told == {"out": str(tmp_path / "there"), "iterations": 1, "finished": True, "reason": None, "alarms": alarms}
    assert list((tmp_path / "there").rglob("events.out.tfevents*"))
    assert (tmp_path / "there" / "pytorch_lora_weights.safetensors").exists()


def test_a_configuration_is_shown_whole_and_can_be_read_again(command, tmp_path):
    found = command("nano-refl", "--iterations", 5, "--show")
    assert found.exit_code == 0 and not (tmp_path / "runs").exists()
    (tmp_path / "again.yaml").write_text(found.stdout)
    assert read_config(tmp_path / "again.yaml") == read_config("nano-refl", iterations=5)


def test_a_run_that_ends_in_its_warm_start_says_so(command, config, tmp_path):
    path = tmp_path / "run.yaml"
    warm = GuidanceDistillation(iterations=3, updates=1)
    path.write_text(yaml.safe_dump(plain(replace(config, warm_start=warm))))
    assert "no judge has had a say" in command(path, "--iterations", 1).output
    assert "no judge has had a say" not in command(path, "--iterations", 4).output


def test_a_misspelt_key_is_said(command, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("out: a\niteratons: 3\n")
    found = command(path)
    assert isinstance(found.exception, LoraTrainingError)
    assert "did you mean 'iterations'?" in str(found.exception)
