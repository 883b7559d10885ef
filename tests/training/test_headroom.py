from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.headroom import COLUMNS, COUNT, Apart, Painter, World, apart, row
from diffusers_ext.nano.oracle import judge
from diffusers_ext.nano.render import render
from diffusers_ext.nano.scenes import grade, parse_prompt, sample_scene_for
from diffusers_ext.training.policy import add_lora
from diffusers_ext.training.saving import save_lora

PROMPT = "a photo of two circles"


def test_a_line_of_the_table_is_what_its_pictures_are():
    rng = np.random.default_rng(0)
    right = judge(render(sample_scene_for(rng, parse_prompt(PROMPT))), PROMPT)
    wrong = judge(np.full((64, 64, 3), 40, dtype=np.uint8), PROMPT)
    assert (right.correct, len(right.objects), len(wrong.objects)) == (True, 2, 0)
    objects = (*right.objects, replace(right.objects[0], shape="star"))
    crowded = replace(right, objects=objects, grade=grade(parse_prompt(PROMPT), objects))
    # One right picture in the last eight of the first prompt's; the judge likes it best there, but not of all.
    verdicts = [[wrong] * (COUNT - 1) + [right], [wrong] * COUNT, [right] * (COUNT - 1) + [crowded]]
    rewards = np.zeros((3, COUNT))
    rewards[0, 0], rewards[0, -1] = 2.0, 1.0
    distances = [Apart(np.nan, np.nan, 0.3), Apart(0.1, 0.01, 0.6), Apart(0.2, 0.04, 0.0)]
    cells = [cell.strip() for cell in row("counting", verdicts, rewards, distances).strip("|").split("|")]
    expected = (33 / 96, 32 / 96, 5 / 12, 2 / 3, 5 / 12, 1 / 3, 30 / 31, (2 + 2 * 31 + 3) / 96)
    assert cells == ["counting", *(f"{value:.2f}" for value in expected), "0.150", "0.025", "0.300"]
    assert len(COLUMNS) == len(cells)


def test_only_exact_pictures_are_told_apart():
    rng = np.random.default_rng(1)
    pictures = [render(sample_scene_for(rng, parse_prompt(PROMPT), extra=0.0)) for _ in range(2)]
    pictures.append(np.full((64, 64, 3), 255, dtype=np.uint8))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    verdicts = [judge(picture, PROMPT) for picture in pictures]
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -1.0]])
    between = (images[0] - images[1]).square().mean().sqrt()
    found = apart(images, features, verdicts)
    # The first two are at a right angle, the third is at one to the first and opposite to the second.
    assert (found.pixels, found.features) == pytest.approx((float(between), 1.0), abs=1e-4)
    assert found.of_all == pytest.approx((1 + 1 + 2) / 3)
    single = apart(images[1:], features[1:], verdicts[1:])
    assert np.isnan(single.pixels) and np.isnan(single.features) and single.of_all == pytest.approx(2.0)


def test_the_world_paints_without_fault_and_not_the_same_twice():
    for prompt in (PROMPT, "a photo of a red circle left of a blue star"):
        pictures = World().paint(prompt)
        assert pictures.shape == (COUNT, 3, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
        shown = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        assert all(judge(picture, prompt).grade.exact for picture in shown)
        assert len({picture.tobytes() for picture in shown}) == COUNT


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder with a LoRA as training writes it, and the painter that it was taken from."""
    folder = tmp_path_factory.mktemp("lora")
    painter = Painter.load(1.0, 1, None)
    generator = painter.policy.generator
    config = add_lora(generator, 4, 4.0, ("attn.to_v",), seed=0)
    with torch.no_grad():
        for name, item in generator.denoiser.named_parameters():
            if "lora_B" in name:
                item.fill_(2.0)
    save_lora(folder, generator.denoiser, "transformer", "StableDiffusion3Pipeline", config, {})
    return folder, painter


def test_a_lora_paints_as_what_it_was_taken_from_does(taught):
    folder, painter = taught
    expected = painter.paint(PROMPT)
    assert (Painter.load(1.0, 1, folder).paint(PROMPT) - expected).abs().max() < 0.01
    assert (Painter.load(1.0, 1, None).paint(PROMPT) - expected).abs().max() > 0.05


@pytest.mark.slow
def test_nothing_but_the_table_is_printed(taught):
    options = ("--kinds", "colours, held out", "--steps", "1", "--lora", str(taught[0]))
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.headroom", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert [line.count("|") for line in found.stdout.splitlines()] == [len(COLUMNS) + 1] * 3


def test_a_folder_without_a_lora_is_refused(tmp_path, capsys, monkeypatch):
    from benchmarks.headroom import main

    monkeypatch.setattr(sys, "argv", ["headroom", "--lora", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "holds no pytorch_lora_weights.safetensors" in capsys.readouterr().err
