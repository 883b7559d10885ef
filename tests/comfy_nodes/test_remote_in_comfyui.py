from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from comfyui import API_KEY, PROMPT, free_port, node

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]


@pytest.fixture
def served(comfyui):
    """The address of the shipped judge behind `rewarddance serve`, which wants the key that ComfyUI has."""
    pytest.importorskip("ray.serve", reason="needs Ray Serve (pip install 'rewarddance[serve]')")
    ports = ["--port", str(free_port()), "--metrics-port", str(free_port())]
    command = [sys.executable, "-m", "diffusers_ext.cli", "serve", "--device", "cpu", *ports, "--json"]
    environment = {**os.environ, "REWARDDANCE_API_KEY": API_KEY, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        line = process.stdout.readline()
        if not line:
            pytest.skip("Ray cannot be started here")
        yield json.loads(line)["url"]
        process.terminate()  # SIGINT is ignored by what a shell runs in the background


def test_a_judge_on_a_server_says_what_one_here_says(comfyui, uploaded, scenes, judge, served):
    graph = {
        **uploaded,
        "judge": node(
            "RewardDanceLoadRewardModel",
            model="nano (shipped)",
            quantization="none",
            device="auto",
            id_or_url=served,
        ),
        "score": node(
            "RewardDanceScoreImages", reward_model=["judge", 0], images=["batch", 0], prompt=PROMPT, explain=False
        ),
    }
    expected = [item.reward for item in judge.score(scenes, PROMPT)]
    assert comfyui.run(graph).outputs["score"]["rewards"] == pytest.approx(expected, abs=1e-3)
