from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from diffusers_ext.configuring import differences, plain
from diffusers_ext.reward_training.config import UNBOUND, RewardTraining, TrainingError, read_config


def test_what_yaml_reads_in_its_own_way_is_taken_as_it_is_meant(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: a.jsonl\nout: o\nlearning_rate: 1e-4\nclip: 2\ntargets: [q_proj, v_proj]\n")
    config = read_config(path, steps=7, seed=None)
    assert config.data == ("a.jsonl",) and config.targets == ("q_proj", "v_proj")
    assert (config.learning_rate, config.clip, config.steps, config.seed) == (1e-4, 2.0, 7, 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: a\nout: o\nlearningrate: 1", "did you mean 'learning_rate'"),
        ("data: a\nout: o\nzzz: 1", "there are data, out, model"),
        ("out: o", "a key is missing; it takes data, out"),
        ("data: a\nout: o\nsteps: many", "steps: expected int, not 'many'"),
        ("data: a\nout: o\nsteps: 0", "steps: must be at least 1"),
        ("data: a\nout: o\nvision: 1", "vision: expected bool, not 1"),
        ("data: a\nout: o\nlearning_rate: fast", "learning_rate: expected float"),
        ("data: a\nout: o\nobjective: regression", "is none of generative, bradley-terry"),
        ("data: a\nout: o\nobjective: bradley-terry", "use pointwise"),
        ("data: a\nout: o\nquantization: nf4\nweights: full", "cannot be trained themselves"),
        ("data: a\nout: o\nties: 2", "must lie in"),
        ("data: [1, 2]\nout: o", "data[0]: expected str, not 1"),
        ("- a\n- b", "expected keys and values"),
        ("data: [a\n", "cannot be read as YAML"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(tmp_path, text, told):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=r"run\.yaml") as caught:
        read_config(path)
    assert told in str(caught.value)


def test_a_resumed_run_may_be_longer_but_not_another():
    old = plain(RewardTraining(("a",), "o"))
    longer = RewardTraining(("a",), "elsewhere", steps=5000, trackers=("tensorboard",))
    assert differences(old, longer, UNBOUND) == []
    assert differences(old, RewardTraining(("a",), "o", seed=1), UNBOUND) == ["seed: 0 -> 1"]


def test_the_docs_name_every_key_of_reward_training_with_its_default():
    text = (Path(__file__).parents[2] / "docs" / "reward-training.md").read_text(encoding="utf-8")
    table = text.split("| key | default |")[1].split("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    told = {}
    for keys, defaults, *_ in rows:
        names, values = (re.findall(r"`([^`]*)`", cell) for cell in (keys, defaults))
        told |= dict(zip(names, values or [None] * len(names), strict=True))
    known = {field.name: field.default for field in fields(RewardTraining)}
    assert told.keys() == known.keys()
    for name, default in known.items():
        if isinstance(default, bool | int | float):
            assert json.loads(told[name]) == default, name
        elif default in (None, (), MISSING):
            assert told[name] is None, name
        else:
            assert told[name] == default, name
