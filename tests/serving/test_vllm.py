"""Judges behind a real vLLM give the verdicts that they give in process."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx", reason="needs httpx (pip install 'rewarddance[serve]')")

from vllm_servers import missing, vllm

from benchmarks.vlms import Size, build
from diffusers_ext.nano import DEFAULT_REWARD_MODEL
from diffusers_ext.ranking import rank
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.openai_compatible import OpenAIRewardModel, RerankerRewardModel

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
PROMPT = "a photo of a red star"
WIDE = Size((256, 3, 4, 256), (48, 3, 4, 96), 2, picture=56, patch=14)  # vLLM's CPU attention wants heads of 32 or more


@pytest.fixture(scope="module")
def judge():
    return RewardModel.default("cpu")


@pytest.fixture(scope="module")
def client(judge, tmp_path_factory):
    options = ("--served-model-name", "nano", "--limit-mm-per-prompt", '{"image": 4}')
    with vllm(DEFAULT_REWARD_MODEL, tmp_path_factory.mktemp("vllm"), *options) as url:
        yield OpenAIRewardModel(url, "nano", config=judge.config)


def same(found, expected):
    assert [item.reward for item in found] == pytest.approx([item.reward for item in expected], abs=1e-3)
    assert [item.explanation for item in found] == [item.explanation for item in expected]


def test_scores(client, judge, pictures):
    same(client.score(pictures, PROMPT, "alignment"), judge.score(pictures, PROMPT, "alignment"))


def test_comparisons(client, judge, pictures):
    same(client.compare(pictures[:3], pictures[3], PROMPT), judge.compare(pictures[:3], pictures[3], PROMPT))


def test_verdicts_after_a_chain_of_thought(client, judge, pictures):
    found = client.compare(pictures[:2], pictures[2], PROMPT, explain=True)
    same(found, judge.compare(pictures[:2], pictures[2], PROMPT, explain=True))


def test_rankings(client, judge, pictures):
    found, expected = (rank(pictures, PROMPT, each, "round-robin") for each in (client, judge))
    assert found.order == expected.order


def test_a_reranker_as_a_classifier(pictures, tmp_path):
    folder = tmp_path / "tiny-reranker"
    folder.mkdir()
    build("qwen3_vl", WIDE, folder).save_pretrained(folder)
    judge = RewardModel.from_pretrained(folder, device="cpu")
    overrides = {
        "architectures": ["Qwen3VLForSequenceClassification"],
        "classifier_from_token": ["no", "yes"],
        "is_original_qwen3_reranker": True,
    }
    options = ("--served-model-name", "reranker", "--runner", "pooling", "--hf-overrides", json.dumps(overrides))
    with vllm(folder, tmp_path, *options) as url:
        asked = ["a red star", "a circle", "two squares"]
        found = RerankerRewardModel(url, "reranker").score(pictures[:3], asked, "alignment")
    expected = judge.score(pictures[:3], asked, "alignment")
    assert [item.log_odds for item in found] == pytest.approx([item.log_odds for item in expected], abs=1e-3)
