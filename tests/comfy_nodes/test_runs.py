from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from comfy_nodes import folders, runs
from diffusers_ext.training import LoraTraining, LoraTrainingError, Result, read_config
from diffusers_ext.training.prompts import read_prompts

SMALL = {
    "iterations": 2,
    "groups": 2,
    "group_size": 2,
    "sampling_steps": 2,
    "evaluation_count": 2,
    "evaluation_size": 2,
    "evaluation_steps": 2,
    "rank": 2,
    "prompt_count": 4,
}


def test_shipped_configurations_come_first_and_ones_own_after_them(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "fox.yaml").write_text("out: x\n", encoding="utf-8")
    names = list(folders.training_configs([tmp_path, tmp_path / "not there"]))
    assert names[0] == "nano-nft" and names[-1] == "mine/fox.yaml"
    assert all(name.startswith("nano") for name in names[: sum(name.startswith("nano") for name in names)])
    assert folders.training_config("mine/fox.yaml", [tmp_path]) == tmp_path / "mine" / "fox.yaml"
    with pytest.raises(LoraTrainingError, match=r"no configuration 'lost' .*'nano-nft'.*'mine/fox\.yaml'"):
        folders.training_config("lost", [tmp_path])


def test_every_shipped_configuration_can_be_placed(tmp_path):
    for name, file in folders.training_configs([]).items():
        placed = runs.placed(read_config(file), tmp_path / name, "a red fox\n\n  a blue bird \n", file.parent)
        assert (tmp_path / name / placed.prompts).read_text(encoding="utf-8") == "a red fox\na blue bird\n"
        assert placed.evaluation_prompts == placed.prompts
        assert (placed.out, placed.save_every) == (".", 1)


def test_the_same_prompts_are_the_same_run_and_others_are_not(tmp_path):
    config = LoraTraining(out="x")
    first, same, other = (
        runs.placed(config, tmp_path, prompts, tmp_path) for prompts in ("a fox", "a fox\n", "a bird")
    )
    assert first == same and first.prompts != other.prompts


def test_files_beside_a_configuration_are_found_from_the_runs_folder(tmp_path):
    beside = tmp_path / "configs"
    (beside / "pipeline").mkdir(parents=True)
    (beside / "lines.txt").write_text("a fox\n", encoding="utf-8")
    config = LoraTraining(out="x", pipeline="pipeline", prompts="lines.txt")
    placed = runs.placed(config, tmp_path / "out", "", beside)
    assert placed.pipeline == str(beside / "pipeline")
    assert (tmp_path / "out" / placed.prompts).read_text(encoding="utf-8") == "a fox\n"
    assert placed.evaluation_prompts == "nano"


def test_first_frames_go_along_with_the_prompts(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    config = LoraTraining(out="x")

    def begun(folder, prompts, *pictures):
        placed = runs.placed(config, folder, prompts, tmp_path, pictures)
        assert placed.prompts == placed.evaluation_prompts
        found = read_prompts(folder / placed.prompts, "prompts")
        return [(item.text, Image.open(item.first_frame).getpixel((0, 0))) for item in found]

    assert begun(tmp_path / "each", "a fox\n\na bird", red, blue) == [("a fox", (255, 0, 0)), ("a bird", (0, 0, 255))]
    assert begun(tmp_path / "all", "a fox\na bird\nein Bär", blue)[2] == ("ein Bär", (0, 0, 255))
    for prompts in ("a fox\na bird\na bear", ""):
        with pytest.raises(LoraTrainingError, match=r"first_frames: got 2 for \d prompts"):
            begun(tmp_path / "none", prompts, red, blue)
    assert not (tmp_path / "none").exists()


def test_records_beside_a_configuration_take_their_pictures_along(tmp_path):
    (tmp_path / "beside" / "frames").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "beside" / "frames" / "fox.png")
    record = '{"prompt": "a fox", "first_frame": "frames/fox.png"}\n'
    (tmp_path / "beside" / "prompts.jsonl").write_text(record, encoding="utf-8")
    config = LoraTraining(out="x", prompts="prompts.jsonl")
    placed = runs.placed(config, tmp_path / "out", "", tmp_path / "beside")
    (found,) = read_prompts(tmp_path / "out" / placed.prompts, "prompts")
    assert found.text == "a fox" and found.first_frame.parent == tmp_path / "out"
    assert Image.open(found.first_frame).getpixel((0, 0)) == (255, 0, 0)


def test_prompts_that_are_nowhere_are_asked_for(tmp_path):
    with pytest.raises(LoraTrainingError, match=r"from prompts\.txt, which cannot be read .* write prompts into the"):
        runs.placed(LoraTraining(out="x", prompts="prompts.txt"), tmp_path / "out", " ", tmp_path)
    assert not (tmp_path / "out").exists()


def test_half_a_line_waits_for_its_rest(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\n{"evaluation": {}}\n{"itera', encoding="utf-8")
    entries = runs.entries_of(tmp_path)
    assert entries == [{"iteration": 0}, {"evaluation": {}}]
    assert runs.steps_of(entries) == [{"iteration": 0}]
    assert runs.entries_of(tmp_path / "new") == []


def test_a_run_ends_soon_once_it_is_told_to(tmp_path):
    begun = []

    def check():
        begun.append(time.monotonic())
        if len(begun) > 3:
            raise KeyboardInterrupt

    placed = runs.placed(LoraTraining(out="x", **SMALL), tmp_path, "", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.run(placed, tmp_path, True, lambda entries: None, check)
    assert time.monotonic() - begun[-1] < 1.0


def test_a_run_ends_with_whoever_started_it(tmp_path):
    (tmp_path / "run.yaml").write_text("out: .\n", encoding="utf-8")
    program = Path(runs.__file__).with_name("trainee.py")
    found = subprocess.run([sys.executable, program], cwd=tmp_path, stdin=subprocess.DEVNULL, check=False)
    assert found.returncode == 1
    assert not (tmp_path / "result.json").exists()


def test_a_run_that_was_killed_is_told_with_its_last_words(tmp_path):
    (tmp_path / "log.txt").write_text("loading\nKilled by something\n\n", encoding="utf-8")
    with pytest.raises(LoraTrainingError, match=r"ended with code -9: Killed by something \(all of it is in .*log"):
        runs._ended(tmp_path / "result.json", tmp_path / "log.txt", -9)


@pytest.mark.slow
def test_a_run_tells_trains_and_is_gone_on_with(tmp_path):
    config = runs.placed(LoraTraining(out="x", **SMALL), tmp_path / "run", "", tmp_path)
    told = []
    ended = runs.run(config, tmp_path / "run", True, told.append, lambda: None)
    assert ended == Result(tmp_path / "run", 2, True, None)
    assert [len(runs.steps_of(told[-1])), len(told[-1])] == [2, 4]
    kept = json.loads((tmp_path / "run" / "run.yaml").read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(kept)
    with pytest.raises(LoraTrainingError, match="seed: 0 -> 1"):
        other = runs.placed(LoraTraining(out="x", seed=1, **SMALL), tmp_path / "run", "", tmp_path)
        runs.run(other, tmp_path / "run", True, told.append, lambda: None)
