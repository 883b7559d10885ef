from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image

PROMPT = "ein roter Stern ★"


@pytest.fixture
def models(untrained_model_folder, untrained_pipeline_folder):
    return ("--model", untrained_model_folder, "--pipeline", untrained_pipeline_folder, "--device", "cpu", "--steps", 2)


def test_generate_saves_the_pictures_by_rank_and_prints_one_json_object(rewarddance, models, tmp_path, untrained_judge):
    out = tmp_path / "new" / "folder"
    outcome = rewarddance("generate", "-p", PROMPT, "--out", out, "--best-of", 3, "--seed", 7, "--json", *models)
    assert outcome.code == 0
    assert outcome.stdout.count("\n") == 1
    found = json.loads(outcome.stdout)
    assert sorted(item["seed"] for item in found["images"]) == [7, 8, 9]
    names = [f"{place:03d}-seed{item['seed']}.png" for place, item in enumerate(found["images"], start=1)]
    assert [item["file"] for item in found["images"]] == [str(out / name) for name in names]
    assert sorted(file.name for file in out.iterdir()) == [*names, "ranking.json"]
    values = [item["value"] for item in found["images"]]
    assert values == sorted(values, reverse=True)
    judged = untrained_judge.score([item["file"] for item in found["images"]], PROMPT)
    assert values == pytest.approx([judgement.log_odds for judgement in judged], abs=1e-4)

    for item in found["images"]:
        text = Image.open(item["file"]).text
        assert (text["prompt"], text["seed"]) == (PROMPT, str(item["seed"]))
        assert float(text["reward"]) == pytest.approx(item["value"], abs=1e-6)
    kept = json.loads((out / "ranking.json").read_text(encoding="utf-8"))
    assert kept["prompt"] == PROMPT
    assert kept["images"] == found["images"]
    assert kept["order"] == found["order"]


def test_the_same_seed_paints_the_same_picture_in_another_run(rewarddance, models, tmp_path):
    rewarddance("generate", "-p", PROMPT, "--out", tmp_path / "two", "--best-of", 2, "--seed", 4, *models)
    outcome = rewarddance("generate", "-p", PROMPT, "--out", tmp_path / "one", "--best-of", 1, "--seed", 5, *models)
    assert outcome.code == 0
    (alone,) = (tmp_path / "one").glob("*.png")
    (together,) = (tmp_path / "two").glob("*-seed5.png")
    gap = np.abs(np.asarray(Image.open(alone), dtype=int) - np.asarray(Image.open(together), dtype=int))
    assert gap.max() <= 1
    assert alone.name == "001-seed5.png"
    assert "001-seed5.png" in outcome.stdout.replace("\n", "") or "seed" in outcome.stdout


def painted_by_diffusers(pipeline):
    generator = torch.Generator().manual_seed(3)
    [picture] = pipeline(PROMPT, num_inference_steps=2, guidance_scale=1.0, generator=generator).images
    return np.asarray(picture, dtype=int)


def test_a_lora_is_painted_with_as_diffusers_does(rewarddance, models, tmp_path, untrained_pipeline_folder):
    pipeline = StableDiffusion3Pipeline.from_pretrained(untrained_pipeline_folder)
    unchanged = painted_by_diffusers(pipeline)
    # Unless a file says otherwise, diffusers takes the alpha of a LoRA to be its rank.
    layers = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline.transformer.add_adapter(layers)
    weights = {name: 5.0 * weight for name, weight in get_peft_model_state_dict(pipeline.transformer).items()}
    StableDiffusion3Pipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=weights)
    set_peft_model_state_dict(pipeline.transformer, weights)
    meant = painted_by_diffusers(pipeline)

    common = ("generate", "-p", PROMPT, "--best-of", 1, "--seed", 3, "--guidance", 1, *models)
    assert rewarddance(*common, "--out", tmp_path / "with", "--lora", tmp_path / "lora").code == 0
    (file,) = (tmp_path / "with").glob("*.png")
    painted = np.asarray(Image.open(file), dtype=int)
    assert np.abs(painted - meant).max() <= 1
    assert np.abs(painted - unchanged).mean() > 3
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"nothing of the kind")
    outcome = rewarddance(*common, "--out", tmp_path / "wrong", "--lora", tmp_path / "lora")
    assert outcome.code == 2 and "cannot be loaded into StableDiffusion3Pipeline" in outcome.stderr


def test_an_earlier_ranking_is_left_alone(rewarddance, models, tmp_path):
    arguments = ("generate", "-p", PROMPT, "--out", tmp_path / "out", "--best-of", 1, *models)
    assert rewarddance(*arguments).code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    outcome = rewarddance(*arguments, "--seed", 5)
    assert outcome.code == 2
    assert "earlier ranking" in outcome.stderr
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--method", "knokout"), "Did you mean 'knockout'"),
        (("-i", "overal"), "Did you mean 'overall'"),
        (("--pipeline", "{folder}/lost"), "there is no such folder"),
        (("--pipeline", "{folder}"), "holds no model_index.json"),
        (("--pipeline", "{folder}/unknown"), "could not be loaded as a diffusers pipeline"),
        (("--out", "{folder}/taken"), "taken"),
        (("-p", ""), "prompt is empty"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_what_cannot_be_painted_is_refused_and_leaves_nothing(rewarddance, models, tmp_path, options, complaint):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    defaults = ("-p", PROMPT, "--out", tmp_path / "out", "--best-of", 2, *models)
    outcome = rewarddance("generate", *defaults, *(option.format(folder=tmp_path) for option in options))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert complaint in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--best-of", "--steps", "--batch-size"])
def test_numbers_below_one_are_refused(rewarddance, tmp_path, option):
    outcome = rewarddance("generate", "-p", PROMPT, "--out", tmp_path / "out", option, 0)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert option in outcome.stderr
