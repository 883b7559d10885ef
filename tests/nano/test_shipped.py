"""The shipped checkpoints keep what their cards promise; `rewarddance evaluate` measures the same at full size."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from diffusers_ext import RewardModel, best_of_n
from diffusers_ext.nano import CHECKPOINTS, DEFAULT_PIPELINE, DEFAULT_REWARD_MODEL, GENERATOR_OPTIONS
from diffusers_ext.nano.evaluation import accuracy, as_drawn, check_rationale, judge_pairs, swapped
from diffusers_ext.nano.oracle import judge as oracle
from diffusers_ext.nano.preferences import sample_conflicts, sample_minimal_pairs, sample_pairs
from diffusers_ext.nano.scenes import PROMPT_KINDS, sample_prompt

SEED = 40_000_000


def first(stream, count):
    return list(itertools.islice(stream, count))


def slack(bar, count):
    """Three standard errors of a share measured on `count` cases."""
    return 3 * (bar * (1 - bar) / count) ** 0.5


@pytest.fixture(scope="module")
def judge():
    return RewardModel.default()


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_checkpoints_are_small_and_plain():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md", ".txt", ".model"}


@pytest.mark.parametrize(
    ("stream", "options", "bar"),
    [
        (sample_pairs, {}, 0.95),
        (sample_pairs, {"held_out": True}, 0.90),
        (sample_minimal_pairs, {}, 0.90),
        (sample_conflicts, {}, 0.90),
    ],
    ids=["in domain", "held out", "one attribute", "instruction"],
)
def test_the_judge_sides_with_the_truth(judge, stream, options, bar):
    pairs = first(stream(np.random.default_rng(SEED), **options), 100)
    assert accuracy(judge_pairs(judge, pairs), pairs) >= bar - slack(bar, len(pairs))


def test_swapping_seldom_changes_the_verdict(judge):
    pairs = first(sample_pairs(np.random.default_rng(SEED + 1)), 100)
    forward = judge_pairs(judge, pairs, debias=False)
    backward = judge_pairs(judge, [swapped(pair) for pair in pairs], debias=False)
    consistent = np.mean([a.verdict != b.verdict for a, b in zip(forward, backward, strict=True)])
    assert consistent >= 0.97 - slack(0.97, len(pairs))


@pytest.mark.slow
def test_rationales_state_facts(judge):
    pairs = first(sample_pairs(np.random.default_rng(SEED + 2)), 24)
    explained = judge_pairs(judge, pairs, debias=False, explain=True)
    facts = [
        fact
        for pair, judgement in zip(pairs, explained, strict=True)
        for fact in check_rationale(judgement.explanation, pair.candidate, pair.reference, pair.spec, as_drawn)
    ]
    assert len(facts) > 10 * len(pairs)
    assert np.mean(facts) >= 0.85


@pytest.mark.slow
def test_best_of_eight_beats_chance(judge, pipeline):
    rng = np.random.default_rng(SEED + 3)
    prompts = [sample_prompt(rng, kind) for kind in PROMPT_KINDS for _ in range(2)]
    random, chosen = [], []
    for spec in prompts:
        result = best_of_n(pipeline, spec.text, 8, judge, instruction="alignment", **GENERATOR_OPTIONS)
        right = [oracle(image, spec).correct for image in result.images]
        random.append(np.mean(right))
        chosen.append(right[result.ranking.best])
    assert 0.2 <= np.mean(random) <= 0.75
    assert np.mean(chosen) >= np.mean(random) + 0.15


def test_one_reward_through_python_and_the_command_line(judge, tmp_path):
    pair = first(sample_pairs(np.random.default_rng(SEED + 4)), 1)[0]
    for name, picture in (("a", pair.candidate), ("b", pair.reference)):
        Image.fromarray(picture.pixels).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    expected = judge.compare(files[0], files[1], pair.spec.text)[0]
    command = [sys.executable, "-m", "diffusers_ext.cli", "compare", *files, "--prompt", pair.spec.text, "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout)["reward"] == pytest.approx(expected.reward, abs=1e-3)


@pytest.mark.slow
def test_the_demo_prints_one_json_object_and_draws_the_sheet(tmp_path):
    command = [sys.executable, "-m", "diffusers_ext.cli", "demo", "--best-of", "4", "--out", str(tmp_path), "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(printed.stdout)
    assert len(report["prompts"]) == 8
    assert report["chosen"] <= report["oracle"]
    assert report["judgement_count"] == 32
    assert Image.open(report["sheet"]).width > 4 * 128


def test_the_default_judge_is_a_plain_transformers_checkpoint():
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(DEFAULT_REWARD_MODEL, use_safetensors=True)
    assert 3e6 < model.num_parameters() < 7e6
