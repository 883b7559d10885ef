from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from diffusers_ext.configuring import plain
from diffusers_ext.reward_training import ACCELERATE_CONFIGS
from diffusers_ext.training import LoraTrainingError, train_lora
from diffusers_ext.training.draft import DRaFT
from diffusers_ext.training.nft import DiffusionNFT
from diffusers_ext.training.saving import DIFFUSERS_FILE
from diffusers_ext.training.sharing import dealt, settle

ROOT = Path(__file__).parents[2]

# Accelerate turns FSDP on for GPUs alone, though it runs on CPUs too; so this says that there are GPUs.
LAUNCHED = """
import sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType

PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU

from torch.distributed.tensor import DTensor
from diffusers_ext.training import read_config, train_lora
from diffusers_ext.training.learner import Learner

real = Learner.iterate

def iterate(self, iteration):
    policy = self.studio.policy
    for name, item in policy.network.named_parameters():
        if name in policy.learned or name.startswith("transformer_blocks."):
            assert isinstance(item, DTensor) != (name in policy.learned), name
    return real(self, iteration)

Learner.iterate = iterate
whole, stopped, draft = map(read_config, sys.argv[1:])
train_lora(whole)
asked = iter([False, True])
assert train_lora(stopped, cancel=lambda: next(asked)).iterations == 1
train_lora(stopped)
train_lora(draft)
"""


class Stub:
    """What an Accelerator says of itself; no more of it is asked here."""

    def __init__(self, engine, processes=2, fsdp2=True, **said):
        self.distributed_type, self.num_processes, self.is_fsdp2 = engine, processes, fsdp2
        plugin = {"activation_checkpointing": False, "cpu_ram_efficient_loading": False, **said}
        self.state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**plugin))


@pytest.mark.parametrize(
    ("changes", "stub", "told"),
    [
        ({"groups": 3}, Stub("MULTI_GPU"), "groups: 3 cannot be shared among 2"),
        ({}, Stub("DEEPSPEED"), "take ddp.yaml, or fsdp.yaml"),
        ({}, Stub("FSDP", fsdp2=False), "fsdp_version"),
        ({"quantization": "nf4"}, Stub("FSDP"), "take ddp.yaml for QLoRA"),
        ({}, Stub("FSDP", activation_checkpointing=True), "fsdp_activation_checkpointing"),
        ({}, Stub("FSDP", cpu_ram_efficient_loading=True), "fsdp_cpu_ram_efficient_loading"),
    ],
)
def test_ways_to_share_that_do_not_fit_are_refused(config, changes, stub, told):
    with pytest.raises(LoraTrainingError, match=told):
        settle(stub, replace(config, **changes))


def test_processes_that_would_each_do_the_whole_run_are_refused(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LoraTrainingError, match="accelerate launch --cpu"):
        settle(Stub("NO", processes=1), config)


@pytest.mark.parametrize(("processes", "count"), [(1, 3), (2, 4), (2, 5), (4, 1), (3, 0)])
def test_everything_is_dealt_and_all_processes_have_equally_much(processes, count):
    turns = dealt(SimpleNamespace(num_processes=processes), count)
    assert all(len(turn) == processes for turn in turns)
    assert {place for turn in turns for place in turn} == set(range(count))
    assert len(turns) * processes < count + processes


@pytest.mark.slow
def test_two_processes_that_share_the_denoiser_learn_what_one_does_also_when_stopped(config, tmp_path):
    # Adam's first steps blow up what rounding leaves between two orders of a sum, so they are kept short.
    short = replace(config, iterations=2, learning_rate=1e-4, evaluate_every=1, evaluation_count=3)
    # Three references for two processes to make, and batches of pictures of which one is painted twice.
    judges = (replace(config.judges[0], reference="current"),)
    nft = replace(
        short, judges=judges, algorithm=DiffusionNFT(draws=2), micro_batch_size=3, decode_batch_size=2, average=0.5
    )
    # A gradient through several steps, each computed anew on the way back, and its blocks once more.
    draft = replace(short, algorithm=DRaFT(steps=2, kl=0.1), micro_batch_size=1, checkpointing=True)
    runs = {"nft": nft, "whole": nft, "stopped": nft, "draft": draft, "shared": draft}
    runs = {name: replace(run, out=str(tmp_path / name)) for name, run in runs.items()}
    train_lora(runs["nft"])
    train_lora(runs["draft"])
    assert launch([runs[name] for name in ("whole", "stopped", "shared")], tmp_path) == 0
    same(runs["nft"], runs["whole"], atol=1e-6)
    same(runs["draft"], runs["shared"], atol=1e-6)
    same(runs["whole"], runs["stopped"], atol=0)
    DiffusionPipeline.from_pretrained(config.pipeline).load_lora_weights(tmp_path / "whole")
    longer = [replace(runs[name], iterations=3) for name in ("nft", "whole")]
    for run in longer:
        train_lora(run)  # one process goes on with what two had saved
    same(*longer, atol=1e-6)


def same(one, other, atol):
    expected, found = (load_file(Path(run.out) / DIFFUSERS_FILE) for run in (one, other))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0)
    for first, second in zip(figures(one), figures(other), strict=True):
        assert second == pytest.approx(first, rel=0 if atol == 0 else 1e-3, abs=atol)


def figures(config):
    lines = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    entries = [line.get("evaluation", line) for line in lines]
    return [
        {name: value for name, value in entry.items() if isinstance(value, int | float) and name != "seconds"}
        for entry in entries
    ]


def launch(configs, folder):
    files = [folder / f"{number}.yaml" for number in range(len(configs))]
    for file, config in zip(files, configs, strict=True):
        file.write_text(yaml.safe_dump(plain(config)))
    (folder / "run.py").write_text(LAUNCHED)
    engine = ACCELERATE_CONFIGS / "fsdp.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", engine, "--num_processes", "2"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*launcher, folder / "run.py", *files]
    return subprocess.run(list(map(str, command)), env=environment, timeout=300).returncode
