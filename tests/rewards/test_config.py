from __future__ import annotations

import pytest

from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.errors import ModelError


def test_defaults_where_there_is_no_file(tmp_path):
    assert RewardConfig.load(tmp_path) == RewardConfig(1.0, 1.0, 1.0, 512)


def test_what_is_saved_is_loaded(tmp_path):
    config = RewardConfig(2.0, 0.5, 3.0, 77)
    config.save(tmp_path)
    assert RewardConfig.load(tmp_path) == config


def test_keys_left_out_keep_their_defaults(tmp_path):
    (tmp_path / "reward_config.json").write_text('{"cot_temperature": 2.5}')
    assert RewardConfig.load(tmp_path) == RewardConfig(cot_temperature=2.5)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"temprature": 2.0}', r"unknown keys \['temprature'\].*temperature"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "reward_config.json"),
        ("5", "reward_config.json"),
        ('{"temperature": "hot"}', "temperature"),
        ('{"temperature": 0}', "temperature"),
        ('{"pointwise_temperature": -1}', "pointwise_temperature"),
        ('{"cot_temperature": NaN}', "cot_temperature"),
        ('{"max_new_tokens": 0}', "max_new_tokens"),
    ],
)
def test_a_bad_file_is_refused_and_named(tmp_path, content, complaint):
    (tmp_path / "reward_config.json").write_text(content)
    with pytest.raises(ModelError, match=complaint):
        RewardConfig.load(tmp_path)
