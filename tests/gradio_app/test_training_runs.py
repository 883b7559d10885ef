from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("peft", reason="training needs peft: pip install 'rewarddance[train]'")

from safetensors.torch import load_file

from diffusers_ext.rewards.errors import ModelError, RewardDanceError
from diffusers_ext.training import LoraTraining, train_lora
from diffusers_ext.training.monitors import Alarms
from diffusers_ext.training.rewards import JudgeConfig
from gradio_app.models import Models
from gradio_app.recipes import AS_GIVEN, changed, read_recipe, recipes
from gradio_app.runs import LORA, RunError, Runs
from gradio_app.settings import Settings

PROMPTS = ("a photo of a red star", "a photo of a circle")


@pytest.fixture
def config(untrained_pipeline_folder, untrained_model_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return LoraTraining(
        "unused",
        pipeline=str(untrained_pipeline_folder),
        prompts=str(tmp_path / "prompts.txt"),
        judges=(JudgeConfig(str(untrained_model_folder), instruction="alignment"),),
        max_sequence_length=1,
        rank=4,
        alpha=8,
        precision="float32",
        iterations=12,
        groups=2,
        group_size=2,
        sampling_steps=2,
        learning_rate=1e-2,
        save_every=5,
        evaluate_every=12,
        evaluation_prompts=str(tmp_path / "prompts.txt"),
        evaluation_count=2,
        evaluation_size=2,
        evaluation_steps=2,
        alarms=Alarms(stop=False),
    )


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs", "cpu")


def until(runs, name, reached, patience=240):
    end = time.monotonic() + patience
    while not reached(run := runs.get(name)):
        assert time.monotonic() < end, f"{run.state}, {run.iterations}, {run.reason}"
        time.sleep(0.05)
    return run


def ended(run):
    return not run.going_on


def weights(folder):
    return {name: value.tolist() for name, value in load_file(folder / LORA).items()}


@pytest.mark.slow
def test_a_run_that_is_stopped_and_one_that_is_killed_end_in_the_weights_of_one_that_is_not(runs, config, tmp_path):
    whole = train_lora(replace(config, out=str(tmp_path / "whole")))
    runs.start("stopped", config)
    until(runs, "stopped", lambda run: run.iterations >= 2)
    runs.stop("stopped")
    assert until(runs, "stopped", ended).state == "stopped"
    assert 2 <= runs.get("stopped").iterations < 12
    runs.resume("stopped")
    run = until(runs, "stopped", ended)
    assert (run.state, run.iterations, run.reason) == ("finished", 12, None)
    assert weights(run.folder) == weights(whole.out)
    assert run.evaluations[-1]["reward"] == runs.get("stopped").as_dict()["evaluations"][-1]["reward"]

    runs.start("killed", config)
    until(runs, "killed", lambda run: run.iterations >= 7)
    os.kill(runs._process.pid, signal.SIGKILL)
    run = until(runs, "killed", ended)
    assert run.state == "interrupted" and "memory" in run.reason
    runs.resume("killed")
    run = until(runs, "killed", ended)
    assert [item["iteration"] for item in run.steps] == list(range(12))
    assert weights(run.folder) == weights(whole.out)
    with pytest.raises(RunError, match="nothing is left"):
        runs.resume("killed")
    runs.resume("killed", 13)
    assert until(runs, "killed", ended).iterations == 13


KEPT = """
import sys, time
from pathlib import Path
from gradio_app.runs import Runs
runs = Runs(Path(sys.argv[1]), "cpu")
runs.resume("left")
while runs.get("left").iterations < 2:
    time.sleep(0.05)
print("training", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_run_is_saved_and_ends_when_its_page_is_killed(runs, config):
    runs.start("left", replace(config, iterations=1))
    until(runs, "left", ended)
    runs.resume("left", 10_000)
    runs.stop("left")
    until(runs, "left", ended)
    page = subprocess.Popen([sys.executable, "-c", KEPT, str(runs.folder)], stdout=subprocess.PIPE)
    assert page.stdout.readline().strip() == b"training"
    assert runs.get("left").state == "training"
    with pytest.raises(RunError, match="'left' is going on"):
        runs.start("other", config)
    with pytest.raises(RunError, match="not being trained by this page"):
        runs.stop("left")
    page.kill()
    page.wait()
    run = until(runs, "left", ended)
    assert run.state == "stopped" and run.iterations < 10_000
    assert not (runs.folder / "other").exists()


@pytest.mark.slow
def test_of_many_who_start_at_once_one_does(runs, config):
    def start(number):
        try:
            Runs(runs.folder, "cpu") if number % 2 else runs
            (runs if number % 2 else Runs(runs.folder, "cpu")).start(
                "same" if number < 6 else f"other-{number}", config
            )
        except RunError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(10) as visitors:
        found = list(visitors.map(start, range(10)))
    assert found.count(None) == 1
    assert all("room for one" in said or "already" in said or "cannot be kept" in said for said in found if said)
    started = [name for name in runs.names if (runs.folder / name / "training.log").exists()]
    assert sum(runs.get(name).going_on for name in started) == 1


@pytest.mark.slow
def test_what_fails_is_told_and_leaves_room_for_another(runs, config):
    runs.start("wrong", replace(config, targets=("nothing",)))
    run = until(runs, "wrong", ended)
    assert run.state == "failed" and "nothing" in run.reason
    runs.start("own", replace(config, iterations=1), prompts=["a photo of a blue square"])
    run = until(runs, "own", ended)
    assert run.state == "finished"
    assert (run.folder / "prompts.txt").read_text().strip() == "a photo of a blue square"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", "A", "ä", "x" * 41, "-x", ".x", "x\n", "x.y"]
)
def test_names_stay_within_the_folder(runs, config, name):
    with pytest.raises(RunError, match="will not do"):
        runs.start(name, config)
    for look in (runs.get, runs.stop, runs.resume, runs.signature, lambda name: runs.lora(name, None)):
        with pytest.raises(RunError):
            look(name)
    assert not runs.folder.exists()


def test_what_is_too_much_or_cannot_be_kept_is_refused(runs, config, tmp_path):
    with pytest.raises(RunError, match="at most 10000 iterations"):
        runs.start("x", replace(config, iterations=10_001))
    with pytest.raises(RunError, match="1000 prompts"):
        runs.start("x", config, ["a star"] * 1001)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be kept"):
        Runs(tmp_path / "file").start("x", config)
    assert Runs(tmp_path / "file").names == []


@pytest.fixture
def trained(runs, config):
    """A run's folder as a training leaves it."""
    import yaml

    from diffusers_ext.configuring import plain

    folder = runs.folder / "taught"
    train_lora(replace(config, out=str(folder), iterations=1, evaluate_every=1))
    (folder / "run.yaml").write_text(yaml.safe_dump(plain(config)))
    return folder


def test_a_lora_is_put_on_and_taken_off(runs, trained, untrained_pipeline_folder, untrained_model_folder):
    import torch
    from diffusers import DiffusionPipeline

    models = Models(Settings((str(untrained_model_folder),), (str(untrained_pipeline_folder),), "cpu"))
    base = models.pipeline_source("untrained")
    assert runs.loras(base) == ["taught"] and runs.loras(None) == []

    def paint(pipeline):
        options = {"num_inference_steps": 3, "guidance_scale": 1.0, "max_sequence_length": 1}
        return pipeline(PROMPTS[0], generator=torch.Generator().manual_seed(0), **options).images[0].tobytes()

    def painted(lora):
        with models.painting("untrained", lora) as pipeline:
            return paint(pipeline)

    expected = DiffusionPipeline.from_pretrained(untrained_pipeline_folder)
    plain = paint(expected)
    expected.load_lora_weights(trained)
    taught = paint(expected)
    lora = runs.lora("taught", base)
    assert plain != taught
    assert [painted(item) for item in (None, lora, lora, None, lora)] == [plain, taught, taught, plain, taught]
    (trained / LORA).write_bytes(b"no weights")
    with pytest.raises(ModelError, match="taught"):
        painted(lora)
    assert painted(None) == plain
    with pytest.raises(RunError, match="not for the pipeline"):
        runs.lora("taught", None)


def test_recipes_are_those_of_the_pages_pipelines_or_the_named_ones(tmp_path):
    nano = Models(Settings())
    known = recipes((), nano)
    assert next(iter(known)) == "nano-nft"
    assert all(read_recipe(known, name).pipeline is None for name in known)
    assert "sdxl" not in known
    assert list(recipes(("sdxl", str(tmp_path / "mine.yaml")), nano)) == ["sdxl", "mine"]
    for name in ("../../etc/passwd", "sdxl", ""):
        with pytest.raises(RewardDanceError, match="there is no recipe"):
            read_recipe(known, name)


def test_choices_take_the_place_of_the_recipes(untrained_model_folder):
    models = Models(Settings((str(untrained_model_folder),)))
    recipe = read_recipe(recipes((), models), "nano-nft")
    kept = changed(
        recipe,
        models,
        AS_GIVEN,
        recipe.judges[0].instruction,
        AS_GIVEN,
        recipe.iterations,
        recipe.seed,
        recipe.learning_rate,
        recipe.evaluate_every,
    )
    assert kept == recipe
    other = changed(recipe, models, "untrained", "overall", "untrained", 10, 3, 1e-3, 5)
    assert [(item.model, item.instruction) for item in other.judges] == [(str(untrained_model_folder), "overall")]
    assert other.second_judge.model == str(untrained_model_folder)
    assert (other.iterations, other.seed, other.learning_rate, other.evaluate_every) == (10, 3, 1e-3, 5)
    with pytest.raises(ModelError, match="there is no judge"):
        changed(recipe, models, "/etc", "overall", AS_GIVEN, 10, 3, 1e-3, 5)
