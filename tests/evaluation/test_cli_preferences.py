from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.data import Preference, locate, write
from diffusers_ext.evaluation import judge_preferences
from diffusers_ext.evaluation.clip import ClipJudge
from diffusers_ext.rewards.errors import RewardDanceError


@pytest.fixture
def file(pictures, tmp_path):
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    records = [
        Preference(f"a photo of {n} stars", f"{n}.png", f"{(n + 1) % 6}.png", choice, instruction=by)
        for n, (choice, by) in enumerate([("a", None), ("b", "alignment"), ("tie", None), ("a", "alignment")])
    ]
    write(tmp_path / "data.jsonl", records)
    return tmp_path / "data.jsonl"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights, with a real processor and a tokenizer made here."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    trained = ByteLevelBPETokenizer(end_of_word_suffix="</w>")
    trained.train_from_iterator(["a photo of two stars"], 300, special_tokens=["<|startoftext|>", "<|endoftext|>"])
    trained.save_model(str(folder))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 64, "patch_size": 16}, projection_dim=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_every_record_is_asked_by_its_own_instruction_and_in_both_orders(file, untrained_judge):
    items = locate([file])[0]
    judged = judge_preferences(untrained_judge, items)
    for item, found in zip(items, judged, strict=True):
        a, b = (file.parent / getattr(item.record, side) for side in "ab")
        by = item.record.instruction or "overall"
        (forward,) = untrained_judge.compare(a, b, item.record.prompt, by, debias=False)
        (backward,) = untrained_judge.compare(b, a, item.record.prompt, by, debias=False)
        (both,) = untrained_judge.compare(a, b, item.record.prompt, by)
        assert found.forward == pytest.approx(forward.log_odds, abs=1e-4)
        assert found.backward == pytest.approx(backward.log_odds, abs=1e-4)
        assert found.log_odds == pytest.approx(both.log_odds, abs=1e-4)


def test_pointwise_is_the_difference_of_two_scores(file, untrained_judge):
    items = locate([file])[0]
    judged = judge_preferences(untrained_judge, items, pointwise=True)
    record = items[0].record
    one, other = untrained_judge.score([file.parent / record.a, file.parent / record.b], record.prompt)
    assert judged[0].log_odds == pytest.approx(one.log_odds - other.log_odds, abs=1e-4) and judged[0].consistent


def test_a_clip_gives_its_own_logits(clip_folder, pictures):
    judge = ClipJudge.from_pretrained(clip_folder)
    (judgement,) = judge.compare(pictures[0], pictures[1], "two stars")
    inputs = judge.processor(text=["two stars"], images=pictures[:2], return_tensors="pt")
    with torch.no_grad():
        logits = judge.model(**inputs).logits_per_image[:, 0]
    assert judgement.log_odds == pytest.approx(float(logits[0] - logits[1]), abs=1e-4)
    assert abs(judgement.log_odds) > 1e-4


def test_judges_are_set_side_by_side(file, untrained_model_folder, clip_folder, rewarddance, tmp_path):
    plot = tmp_path / "plots" / "reliability.png"
    found = rewarddance(
        "evaluate", "--data", file, "--model", untrained_model_folder, "--model", clip_folder, "--plot", plot, "--json"
    )
    assert found.code == 0, found.stderr
    told = json.loads(found.stdout)
    assert list(told["judges"]) == [untrained_model_folder.name, clip_folder.name]
    figures = told["judges"][clip_folder.name]["figures"]
    assert figures["accuracy"]["n"] == 3 and figures["swap-consistency"]["value"] == 1.0
    assert 0 <= told["agreement"][0]["share"] <= 1
    assert np.asarray(Image.open(plot)).std() > 5
    table = rewarddance("evaluate", "--data", file, "--model", untrained_model_folder)
    assert "accuracy with ties" in table.stdout and "4 records" in table.stdout


@pytest.fixture
def begun(pictures, tmp_path):
    """A file of two records of videos (folders of frames) by an instruction about first frames; one names its own."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            pictures[number if name == "a" else 3 - number].save(tmp_path / name / f"{number}.png")
    pictures[5].save(tmp_path / "first.png")
    record = Preference("a star", "a", "b", "a", instruction="first-frame", first_frame="first.png")
    write(tmp_path / "begun.jsonl", [record, replace(record, first_frame=None)])
    return tmp_path / "begun.jsonl"


def test_first_frames_are_shown_to_the_judge(begun, untrained_judge):
    items = locate([begun])[0]
    with pytest.raises(RewardDanceError, match="row 2: names no first_frame"):
        judge_preferences(untrained_judge, items)
    (found,) = judge_preferences(untrained_judge, items[:1])
    a, b = ([Image.open(begun.parent / name / f"{n}.png").convert("RGB") for n in range(4)] for name in "ab")
    given = Image.open(begun.parent / "first.png").convert("RGB")
    options = {"instruction": "first-frame", "debias": False}
    (forward,) = untrained_judge.compare_videos([a], [b], "a star", first_frame=given, **options)
    (without,) = untrained_judge.compare_videos([a], [b], "a star", **options)
    assert found.forward == pytest.approx(forward.log_odds, abs=1e-4)
    assert abs(found.forward - without.log_odds) > 1e-3


def test_a_judge_of_pictures_says_that_it_takes_no_videos(begun, clip_folder):
    with pytest.raises(RewardDanceError, match="takes no videos"):
        judge_preferences(ClipJudge.from_pretrained(clip_folder), locate([begun])[0][:1])


def test_records_without_the_first_frame_they_need_are_named(begun, untrained_model_folder, rewarddance):
    found = rewarddance("evaluate", "--data", begun, "--model", untrained_model_folder, "--json")
    told = json.loads(found.stdout)
    assert found.code == 2 and "row 2: names no first_frame" in found.stderr
    assert told["judges"][untrained_model_folder.name]["figures"]["accuracy"]["n"] == 1


def test_folders_of_one_name_are_two_judges(file, untrained_model_folder, rewarddance, tmp_path):
    other = shutil.copytree(untrained_model_folder, tmp_path / "elsewhere" / untrained_model_folder.name)
    models = ("--model", untrained_model_folder, "--model", other)
    told = json.loads(rewarddance("evaluate", "--data", file, *models, "--json").stdout)
    assert list(told["judges"]) == [untrained_model_folder.name, str(other)]
    assert told["agreement"][0]["share"] == 1.0


def test_what_cannot_be_drawn_or_loaded_is_said_in_one_line(file, rewarddance, tmp_path):
    drawn = rewarddance("evaluate", "--data", file, "--plot", tmp_path / "plot.xyz")
    assert drawn.code == 2 and "plot can end in" in drawn.stderr and "Traceback" not in drawn.stderr
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    loaded = rewarddance("evaluate", "--data", file, "--model", tmp_path / "broken")
    assert loaded.code == 2 and "config.json cannot be read" in loaded.stderr and "Traceback" not in loaded.stderr


def test_what_cannot_be_measured_is_named_and_the_rest_is(file, untrained_model_folder, rewarddance):
    (file.parent / "1.png").unlink()
    found = rewarddance("evaluate", "--data", file, "--model", untrained_model_folder, "--json")
    told = json.loads(found.stdout)
    assert found.code == 2 and "row 1: b names" in found.stderr and len(told["errors"]) == 2
    missing = rewarddance("evaluate", "--data", file.parent / "none.jsonl")
    assert missing.code == 2 and "none.jsonl: cannot be read" in missing.stderr
