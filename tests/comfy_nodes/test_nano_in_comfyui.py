from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui import PROMPT, node, sampled, saved

from diffusers_ext.nano import DEFAULT_PIPELINE, GENERATOR_OPTIONS

pytestmark = pytest.mark.comfyui

API = Path(__file__).parents[2] / "example_workflows" / "api"
OTHER_PROMPT = "a photo of three squares"


@pytest.fixture(scope="module")
def painted():
    """What the pipeline of diffusers makes of a prompt: float [4, H, W, 3] in [0, 255]."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)

    def paint(prompt):
        generator = torch.Generator().manual_seed(0)
        return 255 * pipeline([prompt] * 4, generator=generator, output_type="np", **GENERATOR_OPTIONS).images

    return paint


def generation(prompt, **sampler):
    options = {"seed": 0, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "nano": node("RewardDanceNanoCheckpoint"),
        "positive": node("CLIPTextEncode", text=prompt, clip=["nano", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["nano", 1]),
        "empty": node("EmptySD3LatentImage", width=64, height=64, batch_size=4),
        "sampled": node(
            "KSampler",
            model=["nano", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            **{**options, **sampler},
        ),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["nano", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="nano"),
    }


@pytest.mark.parametrize("prompt", [PROMPT, OTHER_PROMPT])
def test_the_stock_ksampler_paints_what_the_pipeline_paints(comfyui, painted, prompt):
    found = saved(comfyui, comfyui.run(generation(prompt)))
    assert np.abs(found - painted(prompt)).max() <= 1.01  # ComfyUI cuts off where others round


def test_weights_of_words_do_something(comfyui):
    plain = saved(comfyui, comfyui.run(generation(PROMPT)))
    strong = saved(comfyui, comfyui.run(generation(PROMPT.replace("red star", "(red star:3)"))))
    assert np.abs(plain - strong).max() > 10


def guided(**options):
    inputs = {"width": 4, "strength": 0.0, "looks": "0.3, 0.6", "churn": 1.0, "seed": 0, "method": "Feynman-Kac"}
    graph = generation(PROMPT)
    del graph["sampled"]
    return graph | {
        "judge": node("RewardDanceLoadRewardModel", model="nano (shipped)", quantization="none", device="auto"),
        "noise": node("RandomNoise", noise_seed=0),
        "guider": node("CFGGuider", model=["nano", 0], positive=["positive", 0], negative=["negative", 0], cfg=1.0),
        "sigmas": node("BasicScheduler", model=["nano", 0], scheduler="normal", steps=20, denoise=1.0),
        "sampler": node(
            "RewardDanceGuidedSampler",
            reward_model=["judge", 0],
            vae=["nano", 2],
            prompt=PROMPT,
            **{**inputs, **options},
        ),
        "sampled": sampled(),
    }


def test_guidance_of_no_strength_is_the_plain_sampler(comfyui, painted):
    found = saved(comfyui, comfyui.run(guided()))
    assert np.abs(found - painted(PROMPT)).max() <= 1.01


def test_a_beam_of_one_without_churn_makes_all_the_same(comfyui):
    found = saved(comfyui, comfyui.run(guided(method="search over paths", width=1, churn=0.0)))
    assert np.ptp(found, axis=0).max() <= 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"looks": "0.5, 1.5"}, "looks are shares of the steps"), ({"looks": "early"}, "looks are shares of the steps")],
)
def test_bad_looks_are_one_sentence_on_the_node(comfyui, options, message):
    error = comfyui.run(guided(**options)).error
    assert error["node_id"] == "sampler"
    assert message in error["exception_message"]


def climbing(**options):
    inputs = {"looks": "0.4, 0.6", "length": 0.1, "climbs": 1}
    graph = guided()
    del graph["sampler"]
    graph["empty"]["inputs"]["batch_size"] = 1
    graph["sampled"]["inputs"] |= {"guider": ["climbing", 0], "sampler": ["euler", 0]}
    return graph | {
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "climbing": node(
            "RewardDanceGuider",
            guider=["guider", 0],
            reward_model=["judge", 0],
            vae=["nano", 2],
            prompt=PROMPT,
            **{**inputs, **options},
        ),
    }


# With more of both, pictures by Python alone lie over two levels apart where the noise differs in its sixth digit.
@pytest.mark.parametrize(("looks", "climbs"), [((0.4, 0.6), 1), ((0.5,), 2)])
def test_the_guider_paints_what_python_paints_along_the_gradient(comfyui, judge, looks, climbs):
    from diffusers import StableDiffusion3Pipeline

    from diffusers_ext.sampling import Gradient, RewardGuidedPipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    method = Gradient(1, looks=looks, length=0.1, climbs=climbs)
    expected = RewardGuidedPipeline(pipeline, judge, method)(PROMPT, **GENERATOR_OPTIONS).best
    found = saved(comfyui, comfyui.run(climbing(looks=", ".join(map(str, looks)), climbs=climbs)))[0]
    plain = saved(comfyui, comfyui.run(climbing(length=0.0)))[0]
    assert np.abs(found - np.asarray(expected, float)).max() <= 2.01
    assert np.abs(found - plain).max() > 20


def test_a_guider_of_no_length_is_the_plain_one(comfyui):
    guided_once = climbing(length=0.0)
    plain = climbing()
    plain["sampled"]["inputs"]["guider"] = ["guider", 0]
    assert (saved(comfyui, comfyui.run(guided_once)) == saved(comfyui, comfyui.run(plain))).all()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_the_gradient_raises_the_reward_with_samplers_of_higher_order_too(comfyui, sampler):
    prompt = "a photo of a red circle"  # of which no picture is so wrong that the judge's reward is flat there
    rewards = []
    for length in (0.0, 0.2):
        graph = json.loads(json.dumps(climbing(length=length, looks="0.4, 0.5, 0.6")).replace(PROMPT, prompt))
        graph["euler"]["inputs"]["sampler_name"] = sampler
        graph["empty"]["inputs"]["batch_size"] = 8
        graph["guider"]["inputs"]["cfg"] = 3.0
        scored = {"reward_model": ["judge", 0], "images": ["decoded", 0], "prompt": prompt, "explain": False}
        graph["score"] = node("RewardDanceScoreImages", **scored)
        found = np.array(comfyui.run(graph).outputs["score"]["rewards"])
        rewards.append(np.log(found / (1 - found)))
    assert (rewards[1] - rewards[0]).mean() > 0.5


def test_a_judge_on_a_server_gives_no_gradient_and_says_so(comfyui):
    graph = climbing()
    graph["judge"]["inputs"]["id_or_url"] = "http://127.0.0.1:9"
    error = comfyui.run(graph).error
    assert error["node_id"] == "climbing"
    assert "a judge on a server gives no gradient; load one here" in error["exception_message"]


TRAINING = "rl-lora"
EXAMPLES = [
    pytest.param(file, id=file.stem, marks=pytest.mark.slow if file.stem == TRAINING else ())
    for file in sorted(API.glob("*.json"))
]


@pytest.mark.parametrize("file", EXAMPLES)
def test_every_example_runs(comfyui, file):
    graph = json.loads(file.read_text("utf-8"))
    run = comfyui.wait(comfyui.queue(graph), 3600 if file.stem == TRAINING else 300)
    assert run.status == "success"
    ends = {key for key, item in graph.items() if item["class_type"] in ("SaveImage", "PreviewImage")}
    assert ends <= set(run.outputs)
    for end in ends:
        assert saved(comfyui, run, end).std() > 5


def test_the_example_of_scoring_shows_the_pipelines_pictures_in_the_judges_order(comfyui, painted, judge):
    run = comfyui.run(json.loads((API / "score.json").read_text("utf-8")))
    expected = painted(PROMPT)
    rewards = [item.reward for item in judge.score(torch.tensor(expected / 255).permute(0, 3, 1, 2), PROMPT)]
    assert run.outputs["9"]["rewards"] == pytest.approx(rewards, abs=1e-3)
    order = np.argsort(-np.array(rewards), kind="stable")
    assert np.abs(saved(comfyui, run, "10") - expected[order]).max() <= 1.01
