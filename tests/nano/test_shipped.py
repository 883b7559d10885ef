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
from diffusers_ext.nano import (
    CHECKPOINTS,
    DEFAULT_PIPELINE,
    DEFAULT_REWARD_MODEL,
    DEFAULT_VIDEO_REWARD_MODEL,
    GENERATOR_OPTIONS,
    REWARD_MODELS,
    SMALLER_REWARD_MODELS,
)
from diffusers_ext.nano.evaluation import as_drawn, check_rationale, judge_pairs, swapped
from diffusers_ext.nano.moving.evaluation import judge_pairs as judge_video_pairs
from diffusers_ext.nano.moving.preferences import sample_motion_pairs
from diffusers_ext.nano.moving.preferences import sample_pairs as sample_video_pairs
from diffusers_ext.nano.oracle import judge as oracle
from diffusers_ext.nano.preferences import sample_conflicts, sample_minimal_pairs, sample_pairs
from diffusers_ext.nano.scenes import sample_prompt

SEED = 40_000_000


def first(stream, count):
    return list(itertools.islice(stream, count))


@pytest.fixture(scope="module")
def judge():
    return RewardModel.default()


@pytest.fixture(scope="module")
def video_judge():
    return RewardModel.default_for_videos()


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_checkpoints_are_small_and_plain():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md", ".txt", ".model"}


def card(folder):
    """The figures of a model card, by name: value and number of cases."""
    rows = (line.split("|")[1:-1] for line in (folder / "README.md").read_text().splitlines() if line.startswith("| "))
    cells = [[cell.strip() for cell in row] for row in rows]
    return {row[0]: (float(row[1]), int(row[2])) for row in cells if row[0] != "figure"}


def agrees(found, figure, folder):
    """Whether shares found here are no worse than the card's figure, to four standard errors of both samples."""
    value, cases = card(folder)[figure]
    spread = (max(value * (1 - value), 0.01) * (1 / len(found) + 1 / cases)) ** 0.5
    return np.mean(found) >= value - 4 * spread


@pytest.mark.parametrize(
    ("figure", "stream", "options"),
    [
        ("pairwise accuracy", sample_pairs, {}),
        ("pairwise accuracy, held-out combinations", sample_pairs, {"held_out": True}),
        ("pairs that differ in one attribute", sample_minimal_pairs, {}),
        ("obeys the instruction", sample_conflicts, {}),
    ],
)
def test_the_judge_is_as_good_as_its_card_says(judge, figure, stream, options):
    pairs = first(stream(np.random.default_rng(SEED), **options), 100)
    right = [j.verdict == pair.better for j, pair in zip(judge_pairs(judge, pairs), pairs, strict=True)]
    assert agrees(right, figure, DEFAULT_REWARD_MODEL)


@pytest.mark.parametrize("name", SMALLER_REWARD_MODELS)
def test_smaller_judges_are_as_good_as_their_cards_say(name):
    judge = RewardModel.from_pretrained(name)
    assert f"{judge.model.num_parameters() / 1e6:.1f} million" in (REWARD_MODELS[name] / "README.md").read_text()
    for figure, held_out in (("pairwise accuracy", False), ("pairwise accuracy, held-out combinations", True)):
        pairs = first(sample_pairs(np.random.default_rng(SEED + 6), held_out=held_out), 100)
        right = [j.verdict == pair.better for j, pair in zip(judge_pairs(judge, pairs), pairs, strict=True)]
        assert agrees(right, figure, REWARD_MODELS[name])


@pytest.mark.parametrize(
    ("figure", "stream", "options"),
    [
        ("pairwise accuracy", sample_video_pairs, {}),
        ("pairwise accuracy, held-out combinations", sample_video_pairs, {"held_out": True}),
        ("pairs that differ in motion alone", sample_motion_pairs, {}),
    ],
)
def test_the_judge_of_videos_is_as_good_as_its_card_says(video_judge, figure, stream, options):
    pairs = first(stream(np.random.default_rng(SEED + 5), **options), 60)
    right = [j.verdict == pair.better for j, pair in zip(judge_video_pairs(video_judge, pairs), pairs, strict=True)]
    assert agrees(right, figure, DEFAULT_VIDEO_REWARD_MODEL)


def test_swapping_changes_the_verdict_no_more_often_than_the_card_says(judge):
    pairs = first(sample_pairs(np.random.default_rng(SEED + 1)), 100)
    forward = judge_pairs(judge, pairs, debias=False)
    backward = judge_pairs(judge, [swapped(pair) for pair in pairs], debias=False)
    consistent = [a.verdict != b.verdict for a, b in zip(forward, backward, strict=True)]
    assert agrees(consistent, "swap-consistency", DEFAULT_REWARD_MODEL)


@pytest.mark.slow
def test_rationales_state_as_many_facts_as_the_card_says(judge):
    pairs = first(sample_pairs(np.random.default_rng(SEED + 2)), 24)
    explained = judge_pairs(judge, pairs, debias=False, explain=True)
    shares = [
        np.mean(check_rationale(judgement.explanation, pair.candidate, pair.reference, pair.spec, as_drawn) or [0.0])
        for pair, judgement in zip(pairs, explained, strict=True)
    ]
    assert agrees(shares, "facts that are true", DEFAULT_REWARD_MODEL)


@pytest.mark.slow
def test_best_of_eight_beats_chance(judge, pipeline):
    rng = np.random.default_rng(SEED + 3)
    prompts = [sample_prompt(rng, "two_objects") for _ in range(24)]
    random, chosen = [], []
    for spec in prompts:
        result = best_of_n(pipeline, spec.text, 8, judge, instruction="alignment", **GENERATOR_OPTIONS)
        right = [oracle(image, spec).correct for image in result.images]
        random += right
        chosen.append(right[result.ranking.best])
    assert agrees(random, "two_objects", DEFAULT_PIPELINE)
    assert np.mean(chosen) >= np.mean(random) + 0.1


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
