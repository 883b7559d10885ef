from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from diffusers_ext.cli import serving
from diffusers_ext.rewards.errors import InstructionError, RewardDanceError


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(serving.serve)
    app.command()(serving.score_dataset)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_options_that_mean_nothing_are_refused_before_anything_is_started(run, tmp_path):
    assert run("serve", "--replicas", "4", "--max-replicas", "2").exit_code == 2
    assert run("serve", "--replicas", "0").exit_code == 2
    outcome = run("score-dataset", tmp_path / "lost", tmp_path / "out")
    assert isinstance(outcome.exception, RewardDanceError)
    assert "there is no such file" in str(outcome.exception)
    outcome = run("score-dataset", tmp_path, tmp_path / "out", "-i", "overal")
    assert isinstance(outcome.exception, InstructionError)


@pytest.mark.slow
def test_serve_says_where_it_is_and_ends_when_it_is_interrupted(untrained_model_folder, untrained_judge, pictures):
    pytest.importorskip("ray.serve", reason="needs Ray Serve (pip install 'rewarddance[serve]')")
    from ray_clusters import ray_cluster

    from diffusers_ext.rewards.remote import RemoteRewardModel

    with ray_cluster():  # or skip
        pass
    ports = [free_port() for _ in range(2)]
    options = ("--model", untrained_model_folder, "--device", "cpu", "--port", ports[0], "--metrics-port", ports[1])
    command = [sys.executable, "-m", "diffusers_ext.cli", "serve", *options, "--json"]
    environment = {**os.environ, "REWARDDANCE_API_KEY": "secret"}
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, env=environment, preexec_fn=heed_interrupts
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            url = json.loads(line)["url"]
            with RemoteRewardModel(url, "secret") as judge:
                found = [item.reward for item in judge.score(pictures, "a star")]
        finally:
            process.send_signal(signal.SIGINT)
            try:
                rest, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    assert rest == b""
    assert found == pytest.approx([item.reward for item in untrained_judge.score(pictures, "a star")], abs=1e-3)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ports[0])) != 0


def heed_interrupts():
    # Whatever a shell starts in the background ignores them, and so do its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
