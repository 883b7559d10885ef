from __future__ import annotations

import numpy as np
import pytest
from comfyui import PROMPT, missing, node, serving
from PIL import Image


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    with serving(tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.fixture(scope="session")
def scenes():
    """Pictures of the nano world for PROMPT: right, right, and wrong in two ways."""
    from diffusers_ext.nano.render import render
    from diffusers_ext.nano.scenes import parse_prompt, sample_scene_for

    rng = np.random.default_rng(0)
    prompts = [PROMPT, PROMPT, "a photo of a green square", "a photo of a blue star and a red circle"]
    return [Image.fromarray(render(sample_scene_for(rng, parse_prompt(prompt)))) for prompt in prompts]


@pytest.fixture(scope="session")
def uploaded(comfyui, scenes, tmp_path_factory):
    """A graph that holds the scenes as one batch at node "batch", each alone at "scene0" and so on, and the judge."""
    folder = tmp_path_factory.mktemp("scenes")
    graph = {"judge": node("RewardDanceLoadRewardModel", model="nano (shipped)", quantization="none", device="auto")}
    for index, scene in enumerate(scenes):
        scene.save(folder / f"scene{index}.png")
        graph[f"scene{index}"] = node("LoadImage", image=comfyui.upload(folder / f"scene{index}.png"))
    graph["two"] = node("ImageBatch", image1=["scene0", 0], image2=["scene1", 0])
    graph["three"] = node("ImageBatch", image1=["two", 0], image2=["scene2", 0])
    graph["batch"] = node("ImageBatch", image1=["three", 0], image2=["scene3", 0])
    return graph


@pytest.fixture
def scoring(uploaded):
    return {
        **uploaded,
        "score": node(
            "RewardDanceScoreImages", reward_model=["judge", 0], images=["batch", 0], prompt=PROMPT, explain=False
        ),
    }


@pytest.fixture(scope="session")
def judge():
    from diffusers_ext import RewardModel

    return RewardModel.default(device="cpu")
