from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusers_ext.rewards.bradley_terry import BradleyTerryModel, ScalarHead
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.instructions import PRESETS
from diffusers_ext.rewards.model import SCALAR_HEAD, RewardModel

PROMPT = "a photo of a star"


@pytest.fixture(scope="module")
def folder(untrained_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scalar")
    for file in untrained_model_folder.iterdir():
        (folder / file.name).symlink_to(file)
    head = ScalarHead(RewardModel.from_pretrained(folder).model.config.get_text_config().hidden_size)
    head.weight.data = torch.randn(len(head.weight), generator=torch.Generator().manual_seed(0))
    head.save(folder)
    return folder


@pytest.fixture(scope="module")
def judge(folder):
    return RewardModel.from_pretrained(folder, device="cpu")


def test_a_score_is_the_head_on_the_last_hidden_state_of_the_whole_model(judge, pictures):
    assert isinstance(judge, BradleyTerryModel)
    text = judge.backbone.question(PRESETS["overall"], PROMPT, pairwise=False, explain=False)
    inputs = judge.processor(images=[pictures[0]], text=[text], return_tensors="pt")
    with torch.no_grad():
        hidden = judge.model.model(**inputs).last_hidden_state[0, -1]
    expected = float(hidden @ judge.backbone.scalar_head.weight)
    assert judge.score(pictures[0], PROMPT)[0].log_odds == pytest.approx(expected, abs=1e-3)


def test_a_comparison_is_the_difference_of_scores_whatever_the_order(judge, pictures):
    scores = [item.log_odds for item in judge.score(pictures, PROMPT)]
    found = judge.compare(pictures[1:], pictures[0], PROMPT)
    np.testing.assert_allclose([item.log_odds for item in found], np.subtract(scores[1:], scores[0]), atol=1e-4)
    (one,), (other,) = (judge.compare(a, b, PROMPT) for a, b in (pictures[:2], pictures[1::-1]))
    assert one.reward + other.reward == pytest.approx(1.0) and one.debiased
    each = judge.compare(pictures[:2], pictures[2:4], PROMPT)
    assert [item.reference for item in each] == [0, 1]


def test_gradients_reach_the_pixels(judge, pictures):
    images = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255.0 for p in pictures[:2]])
    images.requires_grad_(True)
    for reference in (None, pictures[2], images.detach()[:1]):
        value = judge.log_odds(images, PROMPT, reference)
        (gradient,) = torch.autograd.grad(value.sum(), images)
        assert gradient.abs().sum() > 0
    expected = [item.log_odds for item in judge.compare(pictures[:2], pictures[2], PROMPT)]
    found = judge.log_odds(images, PROMPT, pictures[2]).tolist()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_it_has_no_reasons_to_give(judge, pictures):
    with pytest.raises(ModelError, match="gives numbers and no reasons"):
        judge.score(pictures[0], PROMPT, explain=True)


def test_a_head_that_does_not_belong_to_the_model_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file.resolve())
    (tmp_path / SCALAR_HEAD).unlink()
    (tmp_path / SCALAR_HEAD).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read as a scalar head"):
        RewardModel.from_pretrained(tmp_path)
    (tmp_path / SCALAR_HEAD).unlink()
    ScalarHead(7).save(tmp_path)
    with pytest.raises(ModelError, match="has 7 numbers, and the model is"):
        RewardModel.from_pretrained(tmp_path)
