from __future__ import annotations

import pytest
import yaml

from diffusers_ext.configuring import differences, plain, read
from diffusers_ext.training import LoraTraining, LoraTrainingError, read_config
from diffusers_ext.training.config import SHIPPED, UNBOUND
from diffusers_ext.training.grpo import FlowGRPO
from diffusers_ext.training.monitors import Alarms
from diffusers_ext.training.nft import DiffusionNFT
from diffusers_ext.training.rewards import JudgeConfig


def written(tmp_path, **content):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"out": "somewhere", **content}))
    return path


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"learning_rat": 1}, r"'learning_rat' is not known here; did you mean 'learning_rate'\?"),
        (
            {"algorithm": {"name": "nft", "bta": 1}},
            r"algorithm \(nft\): 'bta' is not known here; did you mean 'beta'\?",
        ),
        ({"algorithm": "nftt"}, r"'nftt' is none of nft, refl, draft, grpo, ddpo; did you mean 'nft'\?"),
        ({"judges": [{"wieght": 1}]}, r"judges\[0\]: 'wieght' is not known here; did you mean 'weight'\?"),
        ({"judges": [{"scale": "odds"}]}, r"'odds' is none of log_odds, probability"),
        ({"judges": []}, r"judges: names none"),
        ({"judges": [{"weight": 0}]}, r"judges\[0\]: weight: must be a number other than 0"),
        ({"alarms": {"patience": 0}}, r"alarms: patience: must be at least 1, not 0"),
        ({"alarms": {"diversity": -1}}, r"alarms: diversity: must be at least 0, not -1"),
        ({"algorithm": "draft", "judges": [{"explain": True}]}, r"draft climbs the gradient of verdicts.*take nft"),
        ({"iterations": "many"}, r"iterations: expected int, not 'many'"),
        ({"iterations": True}, r"iterations: expected int, not True"),
        ({"iterations": 0}, r"iterations: must be at least 1"),
        ({"group_size": 1}, r"group_size: nft compares pictures of one prompt"),
        ({"warm_start": {"updates": 5}}, r"warm_start: 16 groups of 8 pictures cannot be shared among its 5 updates"),
        ({"warm_start": {"learning_rate": 0}}, r"warm_start: learning_rate must be above zero, not 0"),
        ({"warm_start": {"iterations": -1}}, r"warm_start: iterations must be at least 0"),
        ({"jitter": {"nois": 0.1}}, r"'nois' is not known here; did you mean 'noise'\?"),
        ({"algorithm": {"name": "grpo", "updates": 3}}, r"group_size: 8 pictures cannot be shared among 3 updates"),
        ({"algorithm": {"name": "refl", "earliest": 0.9, "latest": 0.5}}, r"expected 0 <= earliest < latest <= 1"),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_name(tmp_path, content, told):
    with pytest.raises(LoraTrainingError, match=told):
        read_config(written(tmp_path, **content))


def test_a_missing_file_lists_what_is_shipped():
    with pytest.raises(LoraTrainingError, match=r"Shipped configurations:.*nano-nft"):
        read_config("nowhere.yaml")


def test_out_is_wanted(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("iterations: 3\n")
    with pytest.raises(LoraTrainingError, match="out"):
        read_config(path)


def test_numbers_options_and_changes_are_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("out: a\nlearning_rate: 1e-3\nalgorithm: {name: grpo, clip: 1}\ntargets: attn.to_q\n")
    found = read_config(path, out="b")
    assert (found.learning_rate, found.algorithm, found.targets, found.out) == (
        1e-3,
        FlowGRPO(clip=1.0),
        ("attn.to_q",),
        "b",
    )


def test_python_may_say_what_yaml_may(tmp_path):
    found = LoraTraining(
        tmp_path / "run",
        algorithm="grpo",
        judges=[{"instruction": "exactness", "weight": 2}],
        targets="attn.to_q",
        learning_rate="1e-4",
        alarms={"stop": False},
    )
    meant = LoraTraining(
        str(tmp_path / "run"),
        algorithm=FlowGRPO(),
        judges=(JudgeConfig(instruction="exactness", weight=2.0),),
        targets=("attn.to_q",),
        learning_rate=1e-4,
        alarms=Alarms(stop=False),
    )
    assert found == meant and read(LoraTraining, plain(found), "again", LoraTrainingError) == meant
    with pytest.raises(LoraTrainingError, match="iterations: expected int, not '3'"):
        LoraTraining("a", iterations="3")
    with pytest.raises(LoraTrainingError, match=r"judges\[0\]: expected keys and values, not 'alignment'"):
        LoraTraining("a", judges="alignment")


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_shipped_configurations_can_be_read_and_written(name):
    found = read_config(name)
    assert read(LoraTraining, plain(found), "again", LoraTrainingError) == found


def test_differences_name_what_has_a_say_in_what_is_learned():
    old = plain(LoraTraining("a", iterations=5))

    def changed(new):
        return differences(old, new, UNBOUND)

    assert changed(LoraTraining("b", iterations=9, decode_batch_size=1)) == []
    assert changed(LoraTraining("a", seed=1, algorithm=DiffusionNFT(beta=0.5))) == [
        "algorithm.beta: 1.0 -> 0.5",
        "seed: 0 -> 1",
    ]
    assert changed(LoraTraining("a", evaluation_size=9)) == ["evaluation_size: 4 -> 9"]
    assert changed(LoraTraining("a", judges=(JudgeConfig(weight=0.5),))) == ["judges[0].weight: 1.0 -> 0.5"]
    [line] = changed(LoraTraining("a", algorithm=FlowGRPO()))
    assert line.startswith("algorithm: {'name': 'nft'") and "'name': 'grpo'" in line
