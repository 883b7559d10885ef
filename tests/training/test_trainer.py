from __future__ import annotations

import json
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
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from diffusers_ext.configuring import plain
from diffusers_ext.nano.oracle import detect
from diffusers_ext.rewards.errors import InstructionError, ModelError
from diffusers_ext.rewards.images import as_images
from diffusers_ext.rewards.instructions import Instruction
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.training import LoraTrainingError, train_lora
from diffusers_ext.training.ddpo import DDPO
from diffusers_ext.training.diffusion import denoise, noise_for
from diffusers_ext.training.distillation import GuidanceDistillation
from diffusers_ext.training.draft import DRaFT
from diffusers_ext.training.grpo import FlowGRPO
from diffusers_ext.training.inputs import read_inputs
from diffusers_ext.training.jitter import Jitter
from diffusers_ext.training.monitors import Alarms
from diffusers_ext.training.prompts import Prompt
from diffusers_ext.training.refl import ReFL
from diffusers_ext.training.rewards import Judge
from diffusers_ext.training.saving import COMFYUI_FILE, DIFFUSERS_FILE
from diffusers_ext.training.setup import prepare
from diffusers_ext.training.studio import Studio


def prepared(config):
    return prepare(config, read_inputs(config))


def lora_of(folder):
    return load_file(folder / DIFFUSERS_FILE)


def same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **(tolerance or {"rtol": 0, "atol": 0}))


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(entries):
    return [
        {
            name: {key: item for key, item in value.items() if key != "seconds"} if isinstance(value, dict) else value
            for name, value in entry.items()
            if name != "seconds"
        }
        for entry in entries
    ]


@pytest.fixture
def elsewhere(config, tmp_path):
    return replace(config, out=str(tmp_path / "other"))


@pytest.mark.parametrize("algorithm", [ReFL(), DRaFT(steps=2), FlowGRPO(train_steps=1)], ids=lambda item: item.name)
def test_every_algorithm_moves_the_weights(config, algorithm):
    result = train_lora(replace(config, algorithm=algorithm, iterations=1))
    assert result.finished
    ups = [value for name, value in lora_of(result.out).items() if "lora_B" in name]
    assert sum(value.abs().max() > 0 for value in ups) > len(ups) / 2  # the last block's words lead nowhere


def test_a_run_that_is_stopped_ends_in_the_weights_of_one_that_is_not(config, elsewhere):
    whole = train_lora(config)
    asked = iter([False, False, False, True])
    stopped = train_lora(elsewhere, cancel=lambda: next(asked))
    assert not stopped.finished and stopped.iterations == 3 and "asked" in stopped.reason
    resumed = train_lora(elsewhere)
    assert resumed.finished
    same(lora_of(resumed.out), lora_of(whole.out))
    assert without_times(metrics_of(resumed.out)) == without_times(metrics_of(whole.out))


def test_a_folder_is_trained_in_by_one_process_at_a_time(config):
    held = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); "
        "sys.stdin.read()"
    )
    out = Path(config.out)
    out.mkdir()
    command = [sys.executable, "-c", held, str(out / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LoraTrainingError, match="another process is training in"):
            train_lora(config)
        assert not (out / "state.pt").exists()
        other.kill()
    assert train_lora(config).finished  # a claim ends with its process


def test_what_is_saved_is_the_running_average_of_what_was_learned(config):
    config, average, expected = replace(config, average=0.5), 0.5, None
    for iteration in range(4):
        result = train_lora(replace(config, iterations=iteration + 1))
        state = torch.load(result.out / "state.pt", weights_only=True)
        if expected is None:
            expected = {
                name: torch.zeros_like(value) for name, value in state["weights"]["learned"].items() if "lora_B" in name
            }
        keep = min(average, (1 + iteration) / (10 + iteration))
        expected = {
            name: keep * value + (1 - keep) * state["weights"]["learned"][name] for name, value in expected.items()
        }
    saved = {name.removeprefix("transformer."): value for name, value in lora_of(result.out).items()}
    for name, value in expected.items():
        torch.testing.assert_close(state["weights"]["average"][name], value)
        torch.testing.assert_close(saved[name.replace(".default", "")], value)
    assert any(not torch.equal(value, state["weights"]["learned"][name]) for name, value in expected.items())


WARMED = {
    "warm_start": GuidanceDistillation(iterations=2, updates=2, learning_rate=2e-3),
    "algorithm": DRaFT(steps=2, kl=1.0),
    "jitter": Jitter(),
    "average": 0.5,
}


@pytest.mark.parametrize("at", [2, 3])
def test_a_run_stopped_between_its_warm_start_and_its_algorithm_or_later_goes_on_the_same(config, elsewhere, at):
    whole = train_lora(replace(config, **WARMED))
    asked = iter([False] * at + [True])
    stopped = train_lora(replace(elsewhere, **WARMED), cancel=lambda: next(asked))
    assert stopped.iterations == at
    resumed = train_lora(replace(elsewhere, **WARMED))
    same(lora_of(resumed.out), lora_of(whole.out))
    steps = [entry for entry in metrics_of(whole.out) if "evaluation" not in entry]
    assert ["reward" in entry for entry in steps] == [False, False, True, True]  # guidance needs no judge


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_policies_in_the_same_parameters_stay_apart(config, precision):
    studio = prepared(replace(config, precision=precision)).studio
    policy = studio.policy
    mine, other = (
        {name: torch.full_like(item, value) for name, item in policy.learned.items()} for value in (0.02, 0.03)
    )
    policy.load(mine)
    latents = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser, level = (
        studio.denoiser([Prompt("a photo of a circle")] * 2),
        studio.generator.level(torch.full((2,), 0.5)),
    )

    def predicted(*weights):
        with torch.no_grad(), policy.acting_as(*weights):
            return denoiser(latents, level).velocity

    alone = [predicted(weights) for weights in (other, {})]
    with studio.autocast():
        before = predicted(other)
        now = denoiser(latents, level).velocity
        after = [predicted(weights) for weights in (other, {})]
        (now - after[0]).square().mean().backward()
    assert torch.equal(before, alone[0]) and all(map(torch.equal, after, alone))
    assert (now - after[0]).abs().max() > 1e-4 and (now - after[1]).abs().max() > 1e-4
    assert any(item.grad is not None and item.grad.abs().max() > 0 for item in policy.learned.values())


def test_rewards_begin_from_what_a_warm_start_made_and_stay_tied_to_that(config, elsewhere):
    warm = train_lora(replace(elsewhere, **WARMED, iterations=2))
    made = torch.load(warm.out / "state.pt", weights_only=True)["weights"]["average"]
    assert any(value.abs().max() > 0 for name, value in made.items() if "lora_B" in name)
    tied = replace(config, **{**WARMED, "algorithm": DRaFT(steps=2, kl=1e6)}, learning_rate=1e-4)
    found = torch.load(train_lora(tied).out / "state.pt", weights_only=True)["weights"]
    same(found["reference"], made)

    def distance(one):
        return sum((found["learned"][name] - one.get(name, 0)).square().sum() for name in made if "lora_B" in name)

    assert distance(made) < 0.05 * distance({})
    first = next(entry for entry in metrics_of(Path(tied.out)) if "loss" in entry and "reward" in entry)
    assert first["loss"] == pytest.approx(-first["reward"], abs=0.1)  # no distance yet; to the base it is millions


def test_the_lora_gives_the_picture_of_right_after_training_in_diffusers_and_by_comfyuis_arithmetic(config):
    result = train_lora(replace(config, iterations=2))
    setup = prepared(config)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    prompt, options = "a photo of a circle", {"guidance_scale": 1.0, "max_sequence_length": 1, "output_type": "pt"}

    def picture(pipeline):
        return pipeline(prompt, latents=noise.clone(), num_inference_steps=2, **options).images

    with torch.no_grad():
        state = torch.load(result.out / "state.pt", weights_only=True)
        setup.studio.policy.load(state["weights"]["learned"])
        schedule = setup.studio.generator.schedule(2)
        expected = setup.studio.decode(denoise(setup.studio.denoiser([Prompt(prompt)]), noise, schedule)).clamp(0, 1)
    plain_pipeline = DiffusionPipeline.from_pretrained(config.pipeline)
    assert (picture(plain_pipeline) - expected).abs().max() > 1e-3
    plain_pipeline.load_lora_weights(result.out)
    torch.testing.assert_close(picture(plain_pipeline), expected, atol=1e-5, rtol=0)

    merged = DiffusionPipeline.from_pretrained(config.pipeline)
    weights = load_file(result.out / COMFYUI_FILE)
    parameters = dict(merged.transformer.named_parameters())
    for name in [name for name in weights if name.endswith(".alpha")]:
        layer = name.removesuffix(".alpha")
        down, up = weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"]
        with torch.no_grad():
            parameters[layer.removeprefix("transformer.") + ".weight"] += weights[name] / len(down) * up @ down
    torch.testing.assert_close(picture(merged), expected, atol=1e-5, rtol=0)


def test_an_evaluation_with_guidance_paints_what_diffusers_does(config):
    config = replace(config, evaluation_guidance=3.0)
    studio = prepared(config).studio
    prompt, seeds = "a photo of a circle", [(5, 1), (5, 2)]
    found = studio.paint([Prompt(prompt)] * 2, seeds, steps=3, guidance=3.0)
    pipeline = DiffusionPipeline.from_pretrained(config.pipeline)
    noise = noise_for(studio.generator.shape, seeds)
    options = {"guidance_scale": 3.0, "max_sequence_length": 1, "output_type": "pt"}
    expected = pipeline([prompt] * 2, latents=noise, num_inference_steps=3, **options).images
    torch.testing.assert_close(found.clamp(0, 1), expected, atol=1e-5, rtol=0)
    assert (found - studio.paint([Prompt(prompt)] * 2, seeds, steps=3)).abs().max() > 1e-3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_lora_can_be_read_by_whom_other_files_can(config, tmp_path):
    (tmp_path / "usual").touch()
    result = train_lora(replace(config, iterations=1))
    for name in (DIFFUSERS_FILE, COMFYUI_FILE):
        assert (result.out / name).stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_made_a_lora_is_in_its_header(config):
    result = train_lora(replace(config, iterations=1))
    for file in (DIFFUSERS_FILE, COMFYUI_FILE):
        with safe_open(result.out / file, "pt") as opened:
            told = json.loads(opened.metadata()["rewarddance"])
        assert told["iterations"] == 1
        assert told["config"]["algorithm"] == plain(config.algorithm)


def test_a_run_leaves_a_grid_a_plot_and_figures(config):
    result = train_lora(replace(config, iterations=2, evaluate_every=1))
    entries = metrics_of(result.out)
    assert [entry["iteration"] for entry in entries if "evaluation" not in entry] == [0, 1]
    found = [entry["evaluation"] for entry in entries if "evaluation" in entry]
    assert [item["iteration"] for item in found] == [0, 1, 2]
    assert found[0]["base_distance"] == 0.0 and found[1]["base_distance"] > 0.0
    assert found[0]["second"] is not None  # the oracle understands these prompts
    with Image.open(result.out / "samples" / "000002.png") as grid, Image.open(result.out / "monitors.png") as plot:
        assert np.asarray(grid).std() > 10 and np.asarray(plot).std() > 10


def test_exact_are_those_that_show_what_was_asked_for_and_nothing_else(config, tmp_path):
    (tmp_path / "asked.txt").write_text("a photo of a star\n")
    shipped = replace(config, pipeline=None, evaluation_prompts=str(tmp_path / "asked.txt"), evaluation_size=24)
    setup = prepared(replace(shipped, evaluation_steps=6))
    found, pictures, _ = setup.exam.sit(setup.studio, 0, 0, 0.0)
    stars = [[item.shape for item in detect(picture)] for picture in as_images(pictures[0].clamp(0, 1))]
    assert found.second == pytest.approx(sum("star" in shapes for shapes in stars) / 24)
    assert found.exact == pytest.approx(sum(shapes == ["star"] for shapes in stars) / 24)
    assert 0 < found.exact < found.second


def test_references_are_the_best_of_several_and_their_rewards_are_of_pairs(config):
    judge = replace(config.judges[0], reference="current")
    mixed = replace(config, judges=(judge, replace(config.judges[0], weight=0.5)), iterations=2)
    result = train_lora(mixed)
    kept = sorted((result.out / "references" / "0").glob("*.png"))
    assert kept and all(Image.open(file).size == (64, 64) for file in kept)
    assert (result.out / "state.pt").exists()


def test_a_changed_configuration_is_refused_with_the_difference(config):
    train_lora(replace(config, iterations=1))
    with pytest.raises(LoraTrainingError, match=r"learning_rate: 0\.01 -> 0\.5"):
        train_lora(replace(config, learning_rate=0.5))


@pytest.mark.parametrize("key", ["prompts", "evaluation_prompts", "instructions"])
def test_a_file_that_says_something_else_is_refused_when_a_run_goes_on(config, tmp_path, key):
    files = {name: tmp_path / f"{name}.own" for name in ("prompts", "evaluation_prompts", "instructions")}
    files["prompts"].write_text("a photo of a red star\na photo of a circle\n")
    files["evaluation_prompts"].write_text("a photo of a blue square\n")
    files["instructions"].write_text('[neatness]\ntext = "Judge how neat it is."\n')
    short = replace(config, **{name: str(path) for name, path in files.items()}, iterations=1)
    train_lora(short)
    files[key].write_text(files[key].read_text().replace("a photo", "a picture").replace("neat it", "tidy it"))
    with pytest.raises(LoraTrainingError, match=rf"{key}: .*{key}\.own says something else than it did"):
        train_lora(replace(short, iterations=2))


def test_what_can_be_known_at_once_is_refused_before_a_folder_is_made(config, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    judge = config.judges[0]
    for changes, wrong, told in (
        ({"prompts": str(tmp_path / "none.txt")}, LoraTrainingError, "prompts: .* cannot be read"),
        ({"evaluation_prompts": str(tmp_path / "empty.txt")}, LoraTrainingError, "evaluation_prompts: .* holds none"),
        ({"judges": (replace(judge, instruction="alignmet"),)}, InstructionError, "Did you mean 'alignment'"),
        ({"trackers": ("tensorbord",)}, LoraTrainingError, "'tensorbord' is none of"),
        ({"trackers": ("clearml",)}, LoraTrainingError, "clearml is not installed"),
    ):
        with pytest.raises(wrong, match=told):
            train_lora(replace(config, **changes))
    assert not Path(config.out).exists()
    with pytest.raises(LoraTrainingError, match="expected a LoraTraining"):
        train_lora("run.yaml")


def test_what_is_about_videos_is_refused_of_pictures(config):
    with pytest.raises(LoraTrainingError, match="frames: StableDiffusion3Pipeline paints pictures"):
        train_lora(replace(config, frames=9))
    judge = replace(config.judges[0], instruction="video-motion")
    with pytest.raises(LoraTrainingError, match="video-motion judges videos, and StableDiffusion3Pipeline paints"):
        train_lora(replace(config, judges=(judge,)))


def test_a_judge_goes_by_an_instruction_of_the_users_own(config, tmp_path):
    (tmp_path / "own.toml").write_text('[neatness]\ntext = "Judge how neat the picture is."\n')
    own = replace(config, instructions=tmp_path / "own.toml", judges=({**plain(config.judges[0])},))
    setup = prepared(replace(own, judges=(replace(own.judges[0], instruction="neatness"),)))
    [judge] = setup.studio.judges
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    by = Instruction("neatness", "Judge how neat the picture is.", ())
    asked = judge.model.score(images, ["a photo of a star"] * 2, instruction=by)
    assert judge.reward(images, ["a photo of a star"] * 2).tolist() == [item.log_odds for item in asked]


def test_targets_that_match_nothing_are_answered_with_what_there_is(config):
    with pytest.raises(LoraTrainingError, match=r"attn\.to_qq match no linear layer.*attn\.to_q"):
        train_lora(replace(config, targets=("attn.to_q", "attn.to_qq")))


def test_a_reward_that_is_no_number_stops_the_run_and_keeps_the_last_state(config, monkeypatch):
    train_lora(replace(config, iterations=2))
    before = lora_of(train_lora(replace(config, iterations=2)).out)
    monkeypatch.setattr(Judge, "reward", lambda self, images, *asked: torch.full((len(images),), np.nan))
    with pytest.raises(LoraTrainingError, match="gave nan for a picture of 'a photo of"):
        train_lora(config)
    same(lora_of(Path(config.out)), before)


def test_a_gradient_that_is_no_number_stops_the_run(config, monkeypatch):
    def broken(self, latents, prompts, seeds, iteration):
        return latents.flatten(1).sum(1) * float("inf")

    monkeypatch.setattr(Studio, "gradient_rewards", broken)
    with pytest.raises(LoraTrainingError, match=r"the loss of a picture of 'a photo of"):
        train_lora(replace(config, algorithm=ReFL(), iterations=1))


def test_a_judge_that_is_gone_is_waited_for_and_then_the_run_is_saved(config, monkeypatch):
    monkeypatch.setattr("diffusers_ext.training.rewards.time.sleep", lambda seconds: None)
    asked = []

    def gone(self, images, *rest, **options):
        asked.append(len(images))
        raise ModelError("no answer")

    monkeypatch.setattr(RewardModel, "score", gone)
    monkeypatch.setattr(Judge, "remote", property(lambda self: True))
    patient = replace(config, judges=(replace(config.judges[0], patience=2.0),))
    with pytest.raises(LoraTrainingError, match=r"has not answered for 2 seconds"):
        train_lora(patient)
    assert (Path(config.out) / "state.pt").exists()
    assert len(asked) > 1


def test_too_little_memory_says_what_to_lower(config, monkeypatch):
    def full(self, latents):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Studio, "decode", full)
    with pytest.raises(LoraTrainingError, match=r"Lower micro_batch_size and decode_batch_size \(now 16 and 16\)"):
        train_lora(config)


def test_a_full_disk_keeps_the_state_before(config, monkeypatch):
    train_lora(replace(config, iterations=2))
    before = torch.load(Path(config.out) / "state.pt", weights_only=True)

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LoraTrainingError, match="No space left"):
        train_lora(config)
    same(torch.load(Path(config.out) / "state.pt", weights_only=True)["weights"], before["weights"])
    assert not list(Path(config.out).glob("*.partial"))


def test_a_lasting_alarm_stops_the_run(config):
    never = Alarms(diversity=2.0, patience=2)
    result = train_lora(replace(config, alarms=never, evaluate_every=1, iterations=9))
    assert not result.finished and result.iterations == 2 and "diversity" in result.reason


def test_evaluations_and_alarms_are_told_as_they_come(config, capfd):
    loud = replace(
        config, alarms=Alarms(diversity=2.0, stop=False), warm_start=GuidanceDistillation(iterations=1, updates=1)
    )
    result = train_lora(replace(loud, iterations=2, evaluate_every=1), progress=True)
    told = capfd.readouterr().err
    evaluations = [entry["evaluation"] for entry in metrics_of(result.out) if "evaluation" in entry]
    assert "iterations 1 to 1 are the warm start" in told and "painting 4 pictures as the base does" in told
    for found in evaluations:
        assert f"after {found['iteration']} iterations: reward {found['reward']:.3f}" in told
    assert told.count("alarm, diversity: pictures of one prompt differ by") == 3
    assert result.alarms.keys() == {"diversity"}


def test_the_first_interrupt_is_answered_and_the_run_is_saved(config, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain(replace(config, iterations=500, save_every=500))))
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusers_ext.cli", "train-lora", str(path)], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("training: 1 of"):
            process.send_signal(signal.SIGINT)
            break
    told = process.stderr.read()
    assert process.wait() == 0, told
    assert "ends after this iteration and saves it" in told and "stopped as asked" in told
    assert (Path(config.out) / DIFFUSERS_FILE).exists()


@pytest.mark.slow
def test_a_run_that_is_killed_ends_in_the_weights_of_one_that_is_not(config, elsewhere, tmp_path):
    longer = replace(config, iterations=8, save_every=1)
    other = replace(longer, out=elsewhere.out)
    whole = train_lora(longer)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain(other)))
    code = f"from diffusers_ext.training import *; train_lora(read_config({str(path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (Path(other.out) / "state.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = train_lora(other)
    same(lora_of(result.out), lora_of(whole.out))
    assert without_times(metrics_of(result.out)) == without_times(metrics_of(whole.out))


@pytest.mark.slow
def test_ddpo_moves_a_model_that_predicts_noise(config, tmp_path):
    from tests.sampling.tiny import built

    pipeline, options = built("Stable Diffusion 1.5")
    folder = tmp_path / "sd"
    pipeline.save_pretrained(folder)
    small = replace(
        config,
        pipeline=str(folder),
        algorithm=DDPO(train_steps=1),
        max_sequence_length=None,
        iterations=1,
        height=options["height"],
        width=options["width"],
    )
    result = train_lora(small)
    assert any(value.abs().max() > 0 for name, value in lora_of(result.out).items() if "lora_B" in name)
    assert all(name.startswith("lora_unet_") for name in load_file(result.out / COMFYUI_FILE))
