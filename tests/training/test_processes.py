from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusers_ext.configuring import plain
from diffusers_ext.training import train_lora
from diffusers_ext.training.grpo import FlowGRPO
from diffusers_ext.training.nft import DiffusionNFT
from diffusers_ext.training.saving import DIFFUSERS_FILE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "algorithm", [DiffusionNFT(draws=2), FlowGRPO(train_steps=1)], ids=lambda algorithm: algorithm.name
)
def test_two_processes_learn_what_one_does(config, tmp_path, algorithm):
    # Adam's first steps blow up what rounding leaves between two orders of a sum, so they are kept short.
    alone = replace(config, algorithm=algorithm, iterations=2, learning_rate=1e-4, out=str(tmp_path / "one"))
    one = train_lora(alone)
    together = replace(alone, out=str(tmp_path / "two"))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain(together)))
    script = tmp_path / "run.py"
    script.write_text(f"from diffusers_ext.training import *\ntrain_lora(read_config({str(path)!r}))\n")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    root = Path(__file__).parents[2]
    code = subprocess.run(
        [*launch, "--num_machines", "1", "--mixed_precision", "no", str(script)], cwd=root, env=_environment(root)
    )
    assert code.returncode == 0
    expected, found = (load_file(Path(folder) / DIFFUSERS_FILE) for folder in (one.out, together.out))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=0)


def _environment(root):
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
