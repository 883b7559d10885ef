from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from diffusers_ext.nano import REWARD_MODELS
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.model import RewardModel

PROMPT = "a red star"


@pytest.fixture
def folder(untrained_model_folder, tmp_path):
    return shutil.copytree(untrained_model_folder, tmp_path / "model")


def load(folder, **options):
    return RewardModel.from_pretrained(folder, device="cpu", **options)


def test_a_copy_judges_as_the_original_does(folder, untrained_judge, pictures):
    judge = load(folder)
    assert judge.name == "model"
    assert judge.model.dtype == torch.float32
    assert [item.log_odds for item in judge.score(pictures, PROMPT)] == pytest.approx(
        [item.log_odds for item in untrained_judge.score(pictures, PROMPT)], abs=1e-6
    )


def test_bfloat16_comes_near(folder, untrained_judge, pictures):
    judge = load(str(folder), dtype=torch.bfloat16)
    assert judge.model.dtype == torch.bfloat16
    assert [item.log_odds for item in judge.score(pictures, PROMPT)] == pytest.approx(
        [item.log_odds for item in untrained_judge.score(pictures, PROMPT)], abs=0.2
    )


def test_temperatures_beside_the_weights_are_used(folder, untrained_judge, pictures):
    (folder / "reward_config.json").write_text('{"temperature": 2.0, "pointwise_temperature": 4.0}')
    judge = load(folder)
    raw, cooled = (one.score(pictures[0], PROMPT)[0].log_odds for one in (untrained_judge, judge))
    assert cooled == pytest.approx(raw / 4, abs=1e-6)
    raw, cooled = (one.compare(pictures[0], pictures[1], PROMPT)[0].log_odds for one in (untrained_judge, judge))
    assert cooled == pytest.approx(raw / 2, abs=1e-6)


def test_an_unknown_key_beside_the_weights_is_refused(folder):
    (folder / "reward_config.json").write_text('{"heat": 2.0}')
    with pytest.raises(ModelError, match="heat"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match="lost: there is no such folder"):
        load(tmp_path / "lost")


def test_judges_that_come_with_the_package_are_known_by_name(folder, tmp_path, monkeypatch):
    for name, where in REWARD_MODELS.items():
        named, found = load(name), load(where)
        assert named.name == name
        pairs = zip(named.model.parameters(), found.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    known = r"\(reward-5m, reward-1m, reward-400k, reward-200k, video-reward-5m\)"
    with pytest.raises(ModelError, match=f"nor one that comes with the package {known}"):
        load("reward-7m")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward-5m").symlink_to(folder)
    assert load("reward-5m").model.num_parameters() != found.model.num_parameters()  # what lies here comes first


@pytest.mark.parametrize("path", ["./lost", "../lost"])
def test_a_folder_named_from_here_is_not_taken_for_a_hub_id(path):
    with pytest.raises(ModelError, match="there is no such folder"):
        load(path)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


def test_weights_that_are_not_safetensors_are_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        load(folder)


def test_a_model_that_cannot_see_is_refused(tmp_path):
    small = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(small).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="models of type 'bert' cannot serve as judges"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", '{"model_type": "nothing"}'])
def test_a_config_that_says_nothing_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match="could not be loaded"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 100_000])
def test_damaged_weights_are_refused(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="could not be loaded"):
        load(folder)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="could not be loaded"):
        load(folder)


def test_weights_that_are_not_all_there_are_refused_rather_than_made_up(folder):
    file = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layers.1" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="missing"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"],
)
def test_a_missing_part_of_the_processor_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError):
        load(folder)


@pytest.mark.parametrize("name", ["int4", "NF4", ""])
def test_an_unknown_quantization_is_refused(untrained_model_folder, name):
    with pytest.raises(ModelError, match=r"it can be 'nf4', 'int8', .* or None"):
        load(untrained_model_folder, quantization=name)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_quantization_without_bitsandbytes_says_what_to_install(untrained_model_folder, name):
    with pytest.raises(ModelError, match="pip install"):
        load(untrained_model_folder, quantization=name)


def test_an_unknown_device_is_refused(untrained_model_folder):
    with pytest.raises(ModelError, match="abacus"):
        RewardModel.from_pretrained(untrained_model_folder, device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(untrained_model_folder):
    with pytest.raises(ModelError, match="cuda"):
        RewardModel.from_pretrained(untrained_model_folder, device="cuda")


def test_a_judge_spread_over_what_there_is_judges_alike(untrained_model_folder, untrained_judge, pictures):
    judge = RewardModel.from_pretrained(untrained_model_folder, device="auto")
    assert [item.log_odds for item in judge.score(pictures, PROMPT)] == pytest.approx(
        [item.log_odds for item in untrained_judge.score(pictures, PROMPT)], abs=1e-4
    )


def test_a_judge_is_frozen(untrained_judge):
    assert not any(parameter.requires_grad for parameter in untrained_judge.model.parameters())
