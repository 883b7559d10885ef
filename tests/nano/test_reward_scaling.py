"""The benchmark of judges by size, kind and context, with a step of each lesson."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import reward_scaling
from diffusers_ext.nano.preferences import Picture
from diffusers_ext.nano.render import CLEAN
from diffusers_ext.nano.scenes import PROMPT_KINDS, sample_prompt, sample_scene_for
from diffusers_ext.rewards.model import SCALAR_HEAD

SMALL = ["--seeing", "1", "--speaking", "1", "--asking", "1", "--steps", "2", "--size", "4", "--prompts", "1"]


@pytest.fixture
def started(tmp_path):
    """A folder with pictures to choose from already drawn: renders that are right, and ones of nothing."""
    rng = np.random.default_rng(0)
    specs = [sample_prompt(rng, kind) for kind in PROMPT_KINDS]
    pixels = np.zeros((len(specs), reward_scaling.N, 64, 64, 3), dtype=np.uint8)
    for place, spec in enumerate(specs):
        pixels[place, ::4] = [Picture.of(sample_scene_for(rng, spec), CLEAN, rng).pixels for _ in range(4)]
    np.savez_compressed(tmp_path / "pictures-1.npz", prompts=np.array([spec.text for spec in specs]), pixels=pixels)
    return tmp_path


@pytest.mark.slow
def test_judges_of_both_kinds_begin_from_one_model_and_what_is_done_is_not_done_again(started, capsys, monkeypatch):
    begun_from = {}
    for kind, train in reward_scaling.KINDS.items():

        def noted(folder, recipe, train=train):
            begun_from[folder.name] = recipe.start_from
            return train(folder, recipe)

        monkeypatch.setitem(reward_scaling.KINDS, kind, noted)
    wanted = [str(started), "--sizes", "reward-200k", "--seeds", "0", *SMALL]
    reward_scaling.main(wanted)
    first = capsys.readouterr().out
    for kind in reward_scaling.KINDS:
        folder = started / f"reward-200k-{kind}-0"
        assert (folder / SCALAR_HEAD).exists() == (kind == "bradley-terry")
        assert begun_from[folder.name] == str(started / "reward-200k-backbone")
        learned, begun, speaker = (
            load_file(path / "model.safetensors")
            for path in (folder, started / "reward-200k-backbone", started / "reward-200k-speaker")
        )
        far = max(float((learned[name] - value).abs().max()) for name, value in begun.items())
        assert 0 < far < 1e-3  # two steps of a learning rate that warms up
        assert not all(torch.equal(value, speaker[name]) for name, value in begun.items())
        figures = json.loads((folder / "figures.json").read_text())
        assert 0 <= figures["pairs"] <= 1 and figures["random"] == 0.25 and figures["oracle"] == 1.0
        assert ("+ chain of thought" in figures) == (kind == "generative")
    before = {path: path.stat().st_mtime_ns for path in started.rglob("*.safetensors")}
    assert len(before) == 5  # two that were trained before, two judges and a head
    reward_scaling.main(wanted)
    assert capsys.readouterr().out == first
    reward_scaling.main([str(started), "--report"])
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in started.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_what_judges_begin_from_can_be_made_without_judges(started, capsys):
    wanted = [str(started), "--sizes", "reward-200k", *SMALL]
    reward_scaling.main([*wanted, "--kinds"])
    begun = started / "reward-200k-backbone" / "model.safetensors"
    before = begun.stat().st_mtime_ns
    assert sorted(path.parent.name for path in started.rglob("*.safetensors")) == [
        "reward-200k-backbone",
        "reward-200k-speaker",
    ]
    reward_scaling.main([*wanted, "--kinds", "bradley-terry", "--seeds", "1", "--groups", "2"])
    assert begun.stat().st_mtime_ns == before
    assert [path.parent.name for path in started.glob("*/figures.json")] == ["reward-200k-bradley-terry-1"]


def test_tables_give_means_and_their_intervals_over_seeds(tmp_path, capsys):
    names = ("pairs", "held-out", "one attribute", "random", "best of 16", "oracle", "lift", "bare", "+ instruction")
    for seed, value in enumerate((0.7, 0.8, 0.75)):
        folder = tmp_path / f"reward-1m-bradley-terry-{seed}"
        folder.mkdir()
        (folder / "figures.json").write_text(json.dumps(dict.fromkeys(names, value)))
    reward_scaling.main([str(tmp_path), "--report"])
    text = capsys.readouterr().out
    half = 4.302653 * 0.05 / math.sqrt(3)  # Student's t for two degrees of freedom
    assert f"| reward-1m | bradley-terry | 3 | {' | '.join([f'0.750 ± {half:.3f}'] * 3)} |" in text
    assert "| reward-1m | bradley-terry | 3 | 0.750 ± 0.124 | 0.750 ± 0.124 | - | - | - |" in text
    assert (tmp_path / "scaling.md").read_text().strip() == text.strip()
    assert Image.open(tmp_path / "scaling.png").size[0] > 1000
