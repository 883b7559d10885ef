from __future__ import annotations

import json

import pytest

from diffusers_ext.nano import DEFAULT_REWARD_MODEL
from diffusers_ext.ranking import rank
from diffusers_ext.rewards.model import RewardModel

PROMPT = "a red star"


@pytest.fixture
def model(untrained_model_folder):
    return ("--model", untrained_model_folder, "--device", "cpu")


@pytest.fixture
def damaged_file(tmp_path, pictures):
    file = tmp_path / "damaged.png"
    pictures[0].save(file)
    file.write_bytes(file.read_bytes()[:200])
    return file


def only_json(outcome):
    assert outcome.stdout.count("\n") == 1
    return json.loads(outcome.stdout)


def test_score_prints_one_json_object(rewarddance, model, picture_files, pictures, untrained_judge):
    outcome = rewarddance("score", *picture_files[:3], "-p", PROMPT, "--json", *model)
    assert outcome.code == 0
    found = only_json(outcome)
    assert (found["prompt"], found["errors"]) == (PROMPT, {})
    assert [item["image"] for item in found["judgements"]] == [str(file) for file in picture_files[:3]]
    for item, expected in zip(found["judgements"], untrained_judge.score(pictures[:3], PROMPT), strict=True):
        assert item["log_odds"] == pytest.approx(expected.log_odds, abs=1e-4)
        assert item["reward"] == pytest.approx(expected.reward, abs=1e-4)


def test_the_judge_that_is_used_where_none_is_named_is_quantized_too(rewarddance, picture_files, pictures):
    pytest.importorskip("bitsandbytes")
    outcome = rewarddance("score", picture_files[0], "-p", PROMPT, "--json", "--quantization", "nf4", "--device", "cpu")
    quantized = RewardModel.from_pretrained(DEFAULT_REWARD_MODEL, "nf4", "cpu").score(pictures[0], PROMPT)[0]
    whole = RewardModel.from_pretrained(DEFAULT_REWARD_MODEL, device="cpu").score(pictures[0], PROMPT)[0]
    found = only_json(outcome)["judgements"][0]["log_odds"]
    assert found == pytest.approx(quantized.log_odds, abs=1e-4) != pytest.approx(whole.log_odds, abs=1e-2)
    assert rewarddance("score", picture_files[0], "-p", PROMPT, "--quantization", "nf5").code == 2


def test_compare_prints_one_json_object(rewarddance, model, picture_files, pictures, untrained_judge):
    for debias in (True, False):
        flag = "--debias" if debias else "--no-debias"
        outcome = rewarddance("compare", *picture_files[:2], "-p", PROMPT, "--json", flag, *model)
        assert outcome.code == 0
        found = only_json(outcome)
        assert [found["candidate_image"], found["reference_image"]] == [str(file) for file in picture_files[:2]]
        (expected,) = untrained_judge.compare(pictures[0], pictures[1], PROMPT, debias=debias)
        assert found["log_odds"] == pytest.approx(expected.log_odds, abs=1e-4)
        assert found["debiased"] is debias
        assert found["better"] == str(picture_files[0 if expected.verdict else 1])
        assert not {"candidate", "reference"} & set(found), "indices of one among one"


@pytest.mark.parametrize("method", ["pointwise", "anchored", "knockout", "round-robin"])
def test_rank_prints_one_json_object(rewarddance, model, picture_files, pictures, untrained_judge, method):
    outcome = rewarddance("rank", *picture_files, "-p", PROMPT, "--method", method, "--json", *model)
    assert outcome.code == 0
    found = only_json(outcome)
    expected = rank(pictures, PROMPT, untrained_judge, method)
    assert found["order"] == list(expected.order)
    assert found["images"] == [str(picture_files[index]) for index in expected.order]
    assert found["rewards"] == pytest.approx(expected.rewards, abs=1e-3)
    assert (found["judgement_count"], found["method"]) == (expected.judgement_count, method)
    for item, judgement in zip(found["judgements"], expected.judgements, strict=True):
        assert item["candidate_image"] == str(picture_files[judgement.candidate])
        against = judgement.reference
        assert item["reference_image"] == (None if against is None else str(picture_files[against]))


def test_rank_takes_a_reference_and_an_instruction(rewarddance, model, picture_files, pictures, untrained_judge):
    options = ("--method", "anchored", "--reference", picture_files[0], "-i", "alignment", "--no-debias")
    outcome = rewarddance("rank", *picture_files[1:4], "-p", PROMPT, *options, "--json", *model)
    expected = untrained_judge.compare(pictures[1:4], pictures[0], PROMPT, "alignment", debias=False)
    found = only_json(outcome)
    assert found["rewards"] == pytest.approx([item.log_odds for item in expected], abs=1e-4)
    assert [item["candidate_image"] for item in found["judgements"]] == [str(file) for file in picture_files[1:4]]
    assert {(item["reference"], item["reference_image"]) for item in found["judgements"]} == {
        ("reference", str(picture_files[0]))
    }


def test_tables_hold_every_picture_and_markup_is_left_as_it_is(rewarddance, model, picture_files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    prompt = "a [bold]red[/bold] star [/]"
    for command in ("score", "rank"):
        outcome = rewarddance(command, *picture_files[:2], "-p", prompt, *model)
        assert outcome.code == 0
        assert all(str(file) in outcome.stdout for file in picture_files[:2])
        assert prompt in outcome.stdout
    outcome = rewarddance("compare", *picture_files[:2], "-p", prompt, *model)
    assert outcome.code == 0
    assert "is better" in outcome.stdout


@pytest.mark.parametrize("command", ["score", "rank"])
def test_bad_files_are_named_and_the_rest_is_judged(rewarddance, model, picture_files, damaged_file, command, tmp_path):
    given = [picture_files[0], damaged_file, tmp_path / "lost.png", picture_files[1]]
    outcome = rewarddance(command, *given, "-p", PROMPT, "--json", *model)
    assert outcome.code == 2
    found = only_json(outcome)
    assert set(found["errors"]) == {str(damaged_file), str(tmp_path / "lost.png")}
    assert all(name in outcome.stderr for name in ("damaged.png", "lost.png"))
    assert "Traceback" not in outcome.stderr
    good = [str(file) for file in given if str(file) not in found["errors"]]
    if command == "score":
        assert [item["image"] for item in found["judgements"]] == good
    else:
        assert found["images"] == [good[index] for index in found["order"]]


def test_own_instructions_are_used(rewarddance, model, picture_files, untrained_judge, pictures, tmp_path):
    from diffusers_ext.rewards.instructions import load_instructions

    file = tmp_path / "own.toml"
    file.write_text('[mine]\ntext = "Judge how red it is."\n')
    options = ("--instructions-file", file, "-i", "mine")
    found = only_json(rewarddance("score", picture_files[0], "-p", PROMPT, "--json", *options, *model))
    (expected,) = untrained_judge.score(pictures[0], PROMPT, load_instructions(file)["mine"])
    assert found["judgements"][0]["instruction"] == "mine"
    assert found["judgements"][0]["log_odds"] == pytest.approx(expected.log_odds, abs=1e-4)


@pytest.fixture
def brief(untrained_model_folder, tmp_path):
    """Options for a judge that thinks aloud in three words."""
    import shutil

    from diffusers_ext.rewards.config import RewardConfig

    folder = shutil.copytree(untrained_model_folder, tmp_path / "brief")
    RewardConfig(max_new_tokens=3).save(folder)
    return ("--explain", "--model", folder, "--device", "cpu")


def test_a_ranking_is_explained(rewarddance, brief, picture_files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "600")
    files = picture_files[:3]
    found = only_json(rewarddance("rank", *files, "-p", PROMPT, "--json", *brief))
    thoughts = {item["candidate_image"]: item["explanation"] for item in found["judgements"]}
    assert all(isinstance(thought, str) for thought in thoughts.values()) and len(thoughts) == 3
    table = rewarddance("rank", *files, "-p", PROMPT, *brief).stdout
    for file, thought in thoughts.items():
        (line,) = (line for line in table.splitlines() if file in line)
        assert thought.strip() in line
    for method in ("anchored", "knockout", "round-robin"):
        outcome = rewarddance("rank", *files, "-p", PROMPT, "--method", method, *brief)
        assert outcome.code == 0, outcome.stderr
        assert "(candidate; the reference is" in outcome.stdout
        if method == "anchored":
            assert "what the others were held against" in outcome.stdout


def test_explanations_are_part_of_the_result(rewarddance, brief, picture_files):
    options = (*brief, "--json")
    found = only_json(rewarddance("score", picture_files[0], "-p", PROMPT, *options))
    assert isinstance(found["judgements"][0]["explanation"], str)
    assert isinstance(only_json(rewarddance("compare", *picture_files[:2], "-p", PROMPT, *options))["explanation"], str)


def refused(outcome, complaint, json=False):
    assert outcome.code == 2
    if json:
        assert complaint in only_json(outcome)["error"]
    else:
        assert outcome.stdout == ""
    assert complaint in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", ["score", "compare", "rank"])
def test_an_empty_prompt_is_refused(rewarddance, model, picture_files, command):
    refused(rewarddance(command, *picture_files[:2], "-p", " ", "--json", *model), "prompt is empty", json=True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("score", "{}", "-p", " "), "prompt is empty"),
        (("score", "{}", "-p", "a fox", "--device", "abacus"), "abacus"),
        (("score", "{}", "-p", "a fox", "-i", "nonsense"), "nonsense"),
        (("rank", "{}", "{}", "-p", "a fox", "--method", "knokout"), "knockout"),
        (("generate", "-p", "a fox", "--out", "out", "--method", "knokout"), "knockout"),
        (("generate", "-p", "a fox", "--out", "out", "--pipeline", "lost"), "lost"),
    ],
)
def test_where_the_shipped_judge_s_world_ends_is_said_only_of_what_is_judged(
    rewarddance, picture_files, arguments, complaint, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    outcome = rewarddance(*(argument.format(picture_files[0]) for argument in arguments))
    refused(outcome, complaint)
    assert "note:" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("score", "lost.png", "-p", "x"), "lost.png: there is no such file"),
        (("compare", "lost.png", "lost.png", "-p", "x"), "lost.png: there is no such file"),
        (("rank", "{}", "-p", "x", "--model", "lost"), "lost: there is no such folder"),
        (("score-video", "lost.mp4", "-p", "x"), "lost.mp4: there is no such file"),
        (("compare-videos", "lost.mp4", "lost.mp4", "-p", "x"), "lost.mp4: there is no such file"),
        (("generate", "-p", "x", "--out", "{}"), "is a file"),
        (("quantize", "lost", "out"), "lost: there is no such folder"),
        (("score-dataset", "lost", "out"), "lost: there is no such file or folder"),
        (("train-reward", "lost.yaml"), "lost.yaml"),
        (("train-lora", "lost.yaml"), "lost.yaml"),
        (("evaluate", "--data", "lost.jsonl"), "lost.jsonl"),
        (("demo", "--model", "lost"), "lost: there is no such folder"),
        (("data", "check", "lost.jsonl"), "lost.jsonl"),
        # Calls that mean nothing, whose usage is on stderr:
        (("score", "{}"), "--prompt"),
        (("rank", "{}", "-p", "x", "--best", "3"), "--best"),
        (("serve", "--replicas", "3", "--max-replicas", "1"), "--max-replicas"),
        (("evaluate", "--section", "nonsense"), "nonsense"),
    ],
)
def test_where_nothing_comes_of_it_the_json_object_says_why(
    rewarddance, picture_files, arguments, complaint, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    outcome = rewarddance(*(argument.format(picture_files[0]) for argument in arguments), "--json")
    assert outcome.code == 2
    told = only_json(outcome)
    assert set(told) == {"error"} and complaint in told["error"]
    assert outcome.stderr and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", ["score", "compare", "rank"])
def test_a_missing_model_is_refused(rewarddance, picture_files, command, tmp_path):
    lost = tmp_path / "lost"
    refused(rewarddance(command, *picture_files[:2], "-p", PROMPT, "--model", lost), "there is no such folder")


@pytest.mark.parametrize("command", ["score", "compare", "rank"])
def test_where_no_picture_is_left_nothing_is_judged(rewarddance, model, damaged_file, command, tmp_path):
    refused(rewarddance(command, damaged_file, tmp_path / "lost.png", "-p", PROMPT, *model), "damaged.png")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("-i", "aligment"), "Did you mean 'alignment'"),
        (("--quantization", "int4"), "'nf4', 'int8'"),
        (("--method", "knokout"), "Did you mean 'knockout'"),
        (("--method", "knockout", "--reference", "{file}"), "'anchored'"),
        (("--reference", "lost.png"), "lost.png"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_options_that_mean_nothing_are_refused(rewarddance, untrained_model_folder, picture_files, options, complaint):
    filled = [option.format(file=picture_files[0]) for option in options]
    model = ("--model", untrained_model_folder)
    refused(rewarddance("rank", *picture_files[:3], "-p", PROMPT, *model, *filled), complaint)


@pytest.mark.parametrize(
    "arguments",
    [("score",), ("score", "a.png"), ("compare", "a.png", "-p", "x"), ("nonsense",), ("rank", "--best", "3")],
)
def test_a_wrong_call_is_answered_with_the_usage(rewarddance, arguments):
    outcome = rewarddance(*arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "Usage" in outcome.stderr


def test_the_shipped_judge_says_where_its_world_ends(rewarddance, picture_files, model):
    own = rewarddance("score", picture_files[0], "-p", "a photo of a red star", "--json")
    foreign = rewarddance("score", picture_files[0], "-p", "a fox in the snow", "--json")
    other = rewarddance("score", picture_files[0], "-p", "a fox in the snow", "--json", *model)
    assert [outcome.code for outcome in (own, foreign, other)] == [0, 0, 0]
    only_json(foreign)
    assert "nano world" in foreign.stderr and "--model" in foreign.stderr
    assert "nano world" not in own.stderr + other.stderr
