from __future__ import annotations

import numpy as np
import pytest
from comfyui import PROMPT, node, sampled, saved
from PIL import Image

from diffusers_ext import RewardModel
from diffusers_ext.rewards.videos import Clip

pytestmark = pytest.mark.comfyui

FRAMES = 5
FPS = 24.0


@pytest.fixture(scope="module")
def judge():
    return RewardModel.default_for_videos(device="cpu")


@pytest.fixture
def plain(uploaded):
    return {
        "scene": uploaded["scene0"],
        "judge": node(
            "RewardDanceLoadRewardModel", model="nano for videos (shipped)", quantization="none", device="auto"
        ),
        "ltxv": node("TinyLTXV"),
        "empty": node("EmptyLTXVLatentVideo", width=256, height=256, length=17, batch_size=3),
        "noise": node("RandomNoise", noise_seed=0),
        "guider": node("BasicGuider", model=["ltxv", 0], conditioning=["ltxv", 1]),
        "sigmas": node("BasicScheduler", model=["ltxv", 0], scheduler="normal", steps=8, denoise=1.0),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sampled": sampled(),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["ltxv", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="ltxv"),
    }


def videos(comfyui, graph):
    """float [B, F, H, W, 3]"""
    run = comfyui.run(graph)
    assert run.status == "success", run.error["exception_message"]
    found = saved(comfyui, run)
    return found.reshape(-1, FRAMES, *found.shape[1:])


def guider(plain, **options):
    inputs = {"looks": "0.4, 0.6", "length": 0.3, "climbs": 2, "fps": FPS, **options}
    given = {"guider": ["guider", 0], "reward_model": ["judge", 0], "vae": ["ltxv", 2], "prompt": PROMPT}
    graph = {**plain, "climbing": node("RewardDanceGuider", **given, **inputs)}
    graph["sampled"] = sampled()
    graph["sampled"]["inputs"]["guider"] = ["climbing", 0]
    return graph


def sampler(plain, **options):
    inputs = {"width": 1, "strength": 0.0, "looks": "0.5", "churn": 0.0, "seed": 0, "fps": FPS, **options}
    given = {"reward_model": ["judge", 0], "vae": ["ltxv", 2], "prompt": PROMPT}
    return {**plain, "sampler": node("RewardDanceGuidedSampler", **given, **inputs)}


def log_odds(judge, found, **options):
    clips = [Clip(tuple(Image.fromarray(frame.astype(np.uint8)) for frame in video), FPS) for video in found]
    return np.array([item.log_odds for item in judge.score_video(clips, PROMPT, **options)])


@pytest.mark.parametrize("begun", [False, True])
def test_the_guider_raises_the_reward_of_videos(comfyui, plain, judge, scenes, begun):
    inputs, told = ({"first_frame": ["scene", 0]}, {"first_frame": scenes[0]}) if begun else ({}, {})
    before = videos(comfyui, plain)
    assert (videos(comfyui, guider(plain, length=0.0, **inputs)) == before).all()
    after = videos(comfyui, guider(plain, **inputs))
    assert (log_odds(judge, after, **told) > log_odds(judge, before, **told)).all()


def test_particles_can_be_videos(comfyui, plain):
    before = videos(comfyui, plain)
    assert np.abs(before[0] - before[1]).mean() > 10
    assert np.abs(videos(comfyui, sampler(plain, method="Feynman-Kac")) - before).max() <= 1.01
    copies = videos(comfyui, sampler(plain, method="search over paths"))
    assert np.ptp(copies, axis=0).max() <= 1.0
    assert min(np.abs(copies[0] - video).max() for video in before) <= 1.01


def test_a_wrong_first_frame_is_refused_before_anything_is_painted(comfyui, plain, uploaded):
    graphs = {"climbing": guider(plain), "sampler": sampler(plain, method="Feynman-Kac")}
    for name, graph in graphs.items():
        graph[name]["inputs"]["first_frame"] = ["two", 0]
        error = comfyui.run({**uploaded, **graph}).error
        assert error["node_id"] == name
        assert error["exception_message"].startswith("first_frame: got a batch of 2, expected one picture")
