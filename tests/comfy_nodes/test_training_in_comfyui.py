from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui import PROMPT, Refused, node, saved
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from diffusers_ext.nano import DEFAULT_PIPELINE, GENERATOR_OPTIONS

pytestmark = pytest.mark.comfyui

SMALL = {
    "algorithm": "nft",
    "groups": 2,
    "group_size": 4,
    "sampling_steps": 2,
    "evaluation_count": 2,
    "evaluation_size": 2,
    "evaluation_steps": 2,
    "precision": "float32",
    "out": "unused",
}


@pytest.fixture(scope="session")
def small(comfyui):
    """A configuration of one's own in ComfyUI's folder."""
    folder = comfyui.folder / "models" / "reward_training"
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(json.dumps(SMALL), encoding="utf-8")
    return "small.yaml"


def train(config, **options):
    inputs = {"run_name": "run", "iterations": 2, "learning_rate": 0.01, "seed": 0, "prompts": "", "pipeline": ""}
    return node("RewardDanceTrainLoRA", config=config, **{**inputs, **options})


def painted_by(name, model):
    """Nodes that paint with a model what they save under a name."""
    common = {"positive": ["positive", 0], "negative": ["positive", 0], "latent_image": ["empty", 0]}
    sampler = {"seed": 0, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        f"{name} sampled": node("KSampler", model=model, **common, **sampler),
        f"{name} decoded": node("VAEDecode", samples=[f"{name} sampled", 0], vae=["nano", 2]),
        name: node("SaveImage", images=[f"{name} decoded", 0], filename_prefix=name),
    }


def entries(comfyui, name):
    file = comfyui.folder / "output" / "reward_training" / name / "metrics.jsonl"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def patiently(comfyui, graph):
    return comfyui.wait(comfyui.queue(graph), 1800)


def children(process):
    return [
        child
        for task in Path(f"/proc/{process}/task").iterdir()
        for child in (task / "children").read_text(encoding="utf-8").split()
    ]


@pytest.mark.slow
def test_the_lora_goes_into_stock_loaders_and_paints_what_it_paints_in_diffusers(comfyui, small):
    from diffusers import StableDiffusion3Pipeline

    graph = {
        "nano": node("RewardDanceNanoCheckpoint"),
        "positive": node("CLIPTextEncode", text=PROMPT, clip=["nano", 1]),
        "empty": node("EmptySD3LatentImage", width=64, height=64, batch_size=2),
        "judge": node("RewardDanceLoadRewardModel", model="nano (shipped)", quantization="none", device="auto"),
        "by": node("RewardDanceInstruction", preset="aesthetics"),
        "train": train(
            small, run_name="stock", model=["nano", 0], reward_model=["judge", 0], instruction=["by", 0], prompts=PROMPT
        ),
        "named": node("LoraLoaderModelOnly", model=["nano", 0], lora_name=["train", 1], strength_model=1.0),
        "given": node("LoraModelLoader", model=["nano", 0], lora=["train", 2], strength_model=1.0),
        "curves": node("SaveImage", images=["train", 3], filename_prefix="curves"),
        **painted_by("base", ["nano", 0]),
        **painted_by("by name", ["named", 0]),
        **painted_by("by file", ["given", 0]),
        **painted_by("at once", ["train", 0]),
    }
    run = patiently(comfyui, graph)
    assert run.status == "success", run.error
    pictures = {name: saved(comfyui, run, name) for name in ("base", "by name", "by file", "at once")}
    assert np.abs(pictures["base"] - pictures["by name"]).max() > 10
    assert (pictures["by name"] == pictures["by file"]).all() and (pictures["by name"] == pictures["at once"]).all()
    assert saved(comfyui, run, "curves").shape == (1, 484, 480, 3)
    [text] = run.outputs["train"]["text"]
    assert text.startswith("stock: 2 iterations, reward ")

    pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(comfyui.folder / "output" / "reward_training" / "stock")
    options = {**GENERATOR_OPTIONS, "guidance_scale": 1.0, "generator": torch.Generator().manual_seed(0)}
    expected = 255 * pipeline([PROMPT] * 2, output_type="np", **options).images
    assert np.abs(pictures["by name"] - expected).max() <= 1.01

    file = comfyui.folder / "models" / "loras" / "rewarddance" / "stock.safetensors"
    with safe_open(file, "pt") as opened:
        told = opened.metadata()["rewarddance"]
    assert str(comfyui.folder) not in told
    [judge] = json.loads(told)["config"]["judges"]
    assert (judge["model"], judge["instruction"]) == (None, "aesthetics")


@pytest.mark.slow
def test_an_interrupted_run_stops_soon_keeps_what_it_learned_and_goes_on_to_the_same_weights(comfyui, small):
    number = comfyui.queue({"train": train(small, run_name="cut", iterations=30)})
    end = time.monotonic() + 600
    while len(entries(comfyui, "cut")) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    start = time.monotonic()
    comfyui.http.post("/interrupt")
    run = comfyui.wait(number)
    took = time.monotonic() - start
    assert any(name == "execution_interrupted" for name, _ in run.events)
    assert children(comfyui.process) == []
    lora = comfyui.folder / "models" / "loras" / "rewarddance" / "cut.safetensors"
    assert load_file(lora)
    done = len(entries(comfyui, "cut"))
    assert 4 <= done < 20

    whole = patiently(comfyui, {"train": train(small, run_name="whole", iterations=done + 3)})
    again = patiently(comfyui, {"train": train(small, run_name="cut", iterations=done + 3)})
    assert (whole.status, again.status) == ("success", "success")
    expected = load_file(lora.with_name("whole.safetensors"))
    for name, value in load_file(lora).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)

    other = patiently(comfyui, {"train": train(small, run_name="cut", iterations=done + 3, seed=1)})
    assert "seed: 0 -> 1" in other.error["exception_message"]
    assert took < 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_name": "../fox"}, "'../fox' is not the name of a run; give one without folders"),
        ({"config": "sd35-medium"}, "write prompts into the node, one on every line"),
        ({"instruction": ["by", 0]}, "training takes the preset instructions only; leave own_text empty"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_on_the_node(comfyui, options, message):
    by = node("RewardDanceInstruction", preset="overall", own_text="Judge how round the circle is.")
    error = comfyui.run({"by": by, "train": train(**{"config": "nano-nft", **options})}).error
    assert error["node_id"] == "train"
    assert message in error["exception_message"]
    assert "\n" not in error["exception_message"].strip()


def test_first_frames_reach_the_run_and_number_as_many_as_its_prompts(comfyui, uploaded):
    graph = {**uploaded, "train": train("nano-nft", run_name="moving", prompts="a\nb\nc", first_frames=["two", 0])}
    error = comfyui.run(graph).error
    assert error["exception_message"].startswith("first_frames: got 2 for 3 prompts")
    graph["train"] = train("nano-nft", run_name="moving", prompts="a fox\na bird", first_frames=["two", 0])
    error = patiently(comfyui, graph).error
    assert "'a fox' names a first_frame, and StableDiffusion3Pipeline takes none" in error["exception_message"]
    folder = comfyui.folder / "output" / "reward_training" / "moving"
    (records,) = folder.glob("prompts-*.jsonl")
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert [line["prompt"] for line in lines] == ["a fox", "a bird"]
    for number, line in enumerate(lines):
        with (
            Image.open(folder / line["first_frame"]) as kept,
            Image.open(comfyui.folder / "input" / f"scene{number}.png") as given,
        ):
            assert np.array_equal(np.asarray(kept), np.asarray(given.convert("RGB")))


def test_a_configuration_that_is_not_there_is_answered_with_those_that_are(comfyui):
    with pytest.raises(Refused) as refused:
        comfyui.queue({"train": train("lost")})
    [message] = refused.value.errors["train"]
    assert "'lost'" in message and "'nano-nft'" in message
    assert str(comfyui.folder / "models" / "reward_training") in message
