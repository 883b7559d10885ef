from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffusers_ext.configuring import plain
from diffusers_ext.reward_training import ACCELERATE_CONFIGS, RewardTraining, TrainingError, train_reward_model
from diffusers_ext.reward_training.sharing import settle

ROOT = Path(__file__).parents[2]
FILES = sorted(ACCELERATE_CONFIGS.glob("*.yaml"))

# Accelerate turns these engines on for GPUs alone, though they run on CPUs too; so this says that there are GPUs. A run
# that is told to stops at the start of a step, as one that is killed there. DeepSpeed would compile a part of itself
# for CPUs, and does without where it cannot.
LAUNCHED = """
import sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType

path, last, engine = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if engine == "deepspeed":
    import deepspeed
    deepspeed.ops.__compatible_ops__.clear()
named = {"fsdp": DistributedType.MULTI_GPU, "deepspeed": DistributedType.DEEPSPEED}
PartialState(cpu=True).distributed_type = named[engine]

from accelerate import Accelerator
from diffusers_ext.reward_training import train_reward_model, trainer
from diffusers_ext.reward_training.config import read_config

real = trainer._step

def step(accelerator, *rest):
    assert accelerator.distributed_type == ("DEEPSPEED" if engine == "deepspeed" else "FSDP")
    if rest[-1] == last:
        sys.exit(7)
    return real(accelerator, *rest)

trainer._step = step
train_reward_model(read_config(path))
"""


def launch_config(path):
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shipped_files_are_what_accelerate_takes(path):
    """Keys that are not known make Accelerate's own parsers stop; of nested ones its launcher takes those it has."""
    from accelerate.commands.launch import launch_command_parser

    config = launch_config(path)
    assert config.mixed_precision == "no", "a run says itself which precision it computes in"
    known = vars(launch_command_parser().parse_args(["script.py"]))
    nested = {**config.fsdp_config, **config.deepspeed_config}
    assert set(nested) <= set(known), set(nested) - set(known)


def test_what_the_documents_name_is_shipped():
    assert {"ddp", "fsdp", "deepspeed"} == {path.stem for path in FILES}


class Stub:
    """What an Accelerator says of itself; no more of it is asked here."""

    def __init__(self, engine, processes=2, **said):
        from types import SimpleNamespace

        self.distributed_type, self.num_processes, self.is_fsdp2 = engine, processes, said.get("fsdp2", False)
        self.state = SimpleNamespace(
            fsdp_plugin=SimpleNamespace(activation_checkpointing=said.get("twice", False)),
            deepspeed_plugin=SimpleNamespace(zero_stage=said.get("stage", 2)),
        )


@pytest.mark.parametrize(
    ("changes", "stub", "told"),
    [
        ({"batch_size": 5}, Stub("MULTI_GPU"), "batch_size: 5 cannot be shared among 2"),
        ({}, Stub("FSDP"), "fsdp_version"),
        ({"quantization": "nf4"}, Stub("FSDP", fsdp2=True), "take ddp.yaml"),
        ({"quantization": "nf4"}, Stub("DEEPSPEED"), "take ddp.yaml"),
        ({}, Stub("DEEPSPEED", stage=3), "zero_stage: 3"),
        ({}, Stub("FSDP", fsdp2=True, twice=True), "fsdp_activation_checkpointing"),
    ],
)
def test_ways_to_share_that_do_not_fit_are_refused(changes, stub, told):
    with pytest.raises(TrainingError, match=told):
        settle(stub, RewardTraining(("a",), "o", **changes))


def test_processes_that_would_each_do_the_whole_run_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="accelerate launch --cpu"):
        settle(Stub("NO", processes=1), RewardTraining(("a",), "o"))


@pytest.fixture
def config(preferences, untrained_model_folder, tmp_path):
    return RewardTraining(
        (str(preferences / "train.jsonl"),),
        str(tmp_path / "one"),
        model=str(untrained_model_folder),
        validation=str(preferences / "train.jsonl"),
        validate_every=2,
        validation_records=7,  # so that one of two processes judges one twice
        rank=4,
        steps=4,
        batch_size=4,
        micro_batch_size=1,
        learning_rate=1e-3,
        warmup=1,
        precision="float32",
        save_every=2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["full", "lora"])
@pytest.mark.parametrize("engine", ["fsdp", "deepspeed"])
def test_two_processes_that_share_the_weights_learn_what_one_does_also_when_stopped(config, tmp_path, weights, engine):
    if engine == "deepspeed":
        pytest.importorskip("deepspeed")
    one = train_reward_model(replace(config, weights=weights))
    shared = replace(config, weights=weights, out=str(tmp_path / "two"))
    stopped = launch(engine, shared, tmp_path, last=2)
    assert stopped != 0 and not (tmp_path / "two" / "model.safetensors").exists()
    alone = replace(shared, out=str(tmp_path / "alone"))
    shutil.copytree(shared.out, alone.out)
    assert launch(engine, shared, tmp_path, last=-1) == 0
    train_reward_model(alone)  # one process goes on with what two had saved
    for folder in (shared.out, alone.out):
        expected, found = (load_file(Path(path) / "model.safetensors") for path in (one, folder))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5)
        assert accuracies(folder) == accuracies(one)


def accuracies(folder):
    import json

    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    return [line["validation_accuracy"] for line in lines if "validation_accuracy" in line]


def launch(engine, config, folder, last):
    (folder / "run.yaml").write_text(yaml.safe_dump(plain(config)))
    (folder / "run.py").write_text(LAUNCHED)
    file = ACCELERATE_CONFIGS / f"{engine}.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", "2"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [*launcher, folder / "run.py", folder / "run.yaml", str(last), engine]
    return subprocess.run(list(map(str, command)), env=environment, timeout=300).returncode
