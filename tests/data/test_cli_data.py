from __future__ import annotations

import json

import pytest
from preference_samples import png

from diffusers_ext.data import Preference, Source, load, write


def only_json(outcome):
    assert outcome.stdout.count("\n") == 1
    return json.loads(outcome.stdout)


def refused(outcome, complaint):
    assert (outcome.code, outcome.stdout) == (2, "")
    assert complaint in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in outcome.stderr


@pytest.fixture
def published(tmp_path, pictures_in):
    source = pictures_in(tmp_path / "hpd", "train/1.jpg", "train/2.jpg", "train/3.jpg")
    rows = [
        {"human_preference": [1, 0], "prompt": "a fox", "file_path": ["1.jpg", "2.jpg"]},
        {"human_preference": [1, 0], "prompt": "", "file_path": ["1.jpg", "2.jpg"]},
        {"human_preference": [0, 1], "prompt": "a dog", "file_path": ["2.jpg", "3.jpg"]},
        {"human_preference": [0, 1], "prompt": "a dog", "file_path": ["2.jpg", "lost.jpg"]},
    ]
    (source / "train.json").write_text(json.dumps(rows))
    return source


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_convert_writes_the_good_rows_and_names_the_bad_ones(rewarddance, published, tmp_path, layout):
    out = tmp_path / f"x.{layout}"
    outcome = rewarddance("data", "convert", published, out, "--format", "hpdv2", "--json")
    assert outcome.code == 2
    found = only_json(outcome)
    assert (found["records"], found["out"]) == (2, str(out))
    assert [(item["row"], item["field"]) for item in found["errors"]] == [(2, "prompt"), (None, "b")]
    for told in ("train.json, row 2: prompt is empty", "hpd (train:4): b names", "lost.jpg"):
        assert told in outcome.stderr
    assert [record.prompt for record in load(out).records] == ["a fox", "a dog"]
    outcome = rewarddance("data", "convert", published, out, "--format", "hpdv2", "--no-media")
    assert (outcome.code, f"{out}: 3 records" in outcome.stdout) == (2, True)


def test_convert_can_merge_and_embed(rewarddance, published, tmp_path):
    rows = [
        {"human_preference": marks, "prompt": "a fox", "file_path": ["1.jpg", "2.jpg"]}
        for marks in ([1, 0], [0, 1], [1, 0])
    ]
    (published / "train.json").write_text(json.dumps(rows))
    outcome = rewarddance(
        "data", "convert", published, tmp_path / "x.parquet", "--format", "hpdv2", "--merge", "--embed", "--json"
    )
    assert (outcome.code, only_json(outcome)["records"], outcome.stderr) == (0, 1, "")
    (record,) = load(tmp_path / "x.parquet").records
    assert (record.a, record.choice, record.strength) == (png(0), "a", pytest.approx(1 / 3))


def test_check_says_what_is_there(rewarddance, tmp_path, pictures_in, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    pictures_in(tmp_path, "1.png", "2.png", "3.png")
    records = [
        Preference("a fox", "1.png", "2.png", "a", criteria=("alignment",), source=Source("mine")),
        Preference("a fox", "2.png", "1.png", "a", criteria=("alignment",)),
        Preference("a dog", "3.png", "1.png", "tie"),
    ]
    write(tmp_path / "x.jsonl", records)
    outcome = rewarddance("data", "check", tmp_path / "x.jsonl", "--json")
    assert outcome.code == 0
    found = only_json(outcome)
    assert found["choices"] == {"a": 2, "b": 0, "tie": 1}
    assert (found["records"], found["prompts"], found["media"]) == (3, 2, 3)
    assert (found["questions"], found["conflicts"]) == (2, 1)
    assert (found["criteria"], found["datasets"], found["errors"]) == ({"alignment": 2}, {"mine": 1}, [])
    (notice,) = found["notices"]
    assert "3 records answer 2 questions" in notice
    outcome = rewarddance("data", "check", tmp_path / "x.jsonl")
    assert outcome.code == 0
    assert "note: 3 records answer 2 questions, 1 of them with votes that disagree" in outcome.stdout


def test_check_names_bad_rows(rewarddance, tmp_path, pictures_in):
    pictures_in(tmp_path, "1.png", "2.png")
    write(tmp_path / "x.jsonl", [Preference("p", "1.png", "2.png", "a")] * 2)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('{"prompt": "p", "a": "1.png", "b": "2.png", "choice": "left"}\n')
    outcome = rewarddance("data", "check", tmp_path / "x.jsonl", "--json")
    assert outcome.code == 2
    found = only_json(outcome)
    assert found["records"] == 2
    (error,) = found["errors"]
    assert (error["row"], error["field"]) == (3, "choice")
    assert "error: x.jsonl, row 3: choice is 'left'; expected 'a', 'b' or 'tie'" in outcome.stderr


def test_a_folder_of_pictures_that_is_not_there(rewarddance, tmp_path):
    records = [
        Preference(f"prompt {number}", f"images/{number}a.png", f"images/{number}b.png", "a") for number in range(30)
    ]
    write(tmp_path / "x.jsonl", records)
    outcome = rewarddance("data", "check", tmp_path / "x.jsonl", "--json")
    assert outcome.code == 2
    found = only_json(outcome)
    assert (found["records"], len(found["errors"])) == (0, 60)
    assert found["notices"] == ["there are no records that can be used"]
    # The screen is not flooded.
    assert len(outcome.stderr.splitlines()) == 21
    assert "unpack the pictures there" in outcome.stderr
    assert "and 40 more; --json names them all" in outcome.stderr
    outcome = rewarddance("data", "check", tmp_path / "x.jsonl", "--no-media", "--json")
    assert (outcome.code, only_json(outcome)["records"]) == (0, 30)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([Preference(f"p{n}", "1.png", "2.png", "tie") for n in range(3)], "every record is a tie"),
        ([Preference(f"p{n}", "1.png", "2.png", "a") for n in range(30)], "a is the better one in 100%"),
        ([Preference("p", "1.png", "copy.png", "b")], "with a copy of itself"),
        ([Preference("x" * 3000, "1.png", "2.png", "b")], "3,000 characters"),
        ([], "no records"),
    ],
)
def test_what_is_allowed_but_should_be_known_is_told(rewarddance, tmp_path, pictures_in, records, told):
    pictures_in(tmp_path, "1.png", "2.png")
    (tmp_path / "copy.png").write_bytes(png(0))
    write(tmp_path / "x.jsonl", records)
    outcome = rewarddance("data", "check", tmp_path / "x.jsonl", "--json")
    assert outcome.code == 0
    (notice,) = only_json(outcome)["notices"]
    assert told in notice


def test_split_writes_three_files(rewarddance, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    records = [Preference(f"prompt {number}", f"{number}a", f"{number}b", "a") for number in range(200)]
    write(tmp_path / "x.jsonl", records)
    options = ("--validation", "0.2", "--test", "0.3", "--seed", "5")
    outcome = rewarddance("data", "split", tmp_path / "x.jsonl", "--out", tmp_path / "one", *options, "--json")
    assert outcome.code == 0
    found = only_json(outcome)
    assert sum(found["records"].values()) == found["groups"] == 200
    assert found["notices"] == []
    for split, count in found["records"].items():
        assert len(load(tmp_path / "one" / f"{split}.jsonl").records) == count > 0
    again = rewarddance("data", "split", tmp_path / "x.jsonl", "--out", tmp_path / "two", *options)
    assert (again.code, f"test.jsonl       │ {found['records']['test']}" in again.stdout) == (0, True)
    for split in found["records"]:
        assert (tmp_path / "one" / f"{split}.jsonl").read_bytes() == (tmp_path / "two" / f"{split}.jsonl").read_bytes()
    refused(rewarddance("data", "split", tmp_path / "x.jsonl", "--out", tmp_path / "one"), "holds something already")


def test_split_tells_what_is_odd(rewarddance, tmp_path):
    records = [
        Preference(f"prompt {number % 3}", f"{number}a", "same" if number < 8 else "b", "a") for number in range(9)
    ]
    write(tmp_path / "x.jsonl", records)
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write("broken\n")
    outcome = rewarddance("data", "split", tmp_path / "x.jsonl", "--out", tmp_path / "out", "--json")
    assert outcome.code == 2
    found = only_json(outcome)
    assert found["groups"] == 1
    assert sum("is empty" in notice for notice in found["notices"]) == 2
    assert [item["row"] for item in found["errors"]] == [10]
    assert "x.jsonl, row 10" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("check", "{}/lost.jsonl"), "lost.jsonl"),
        (("check", "{}/x.csv"), "expected .jsonl or .parquet"),
        (("split", "{}/lost.parquet", "--out", "{}/out"), "no such file"),
        (("convert", "{}", "{}/x.jsonl", "--format", "hpd-v2"), "Did you mean 'hpdv2'"),
        (("convert", "{}", "{}/x.json", "--format", "hpdv2"), "expected .jsonl or .parquet"),
        (("convert", "{}/lost", "{}/x.jsonl", "--format", "hpdv2"), "no such file or folder"),
        (("convert", "{}", "{}/x.jsonl", "--format", "hpdv2"), "holds no .json files"),
    ],
)
def test_what_cannot_be_done_is_refused(rewarddance, tmp_path, arguments, complaint):
    refused(rewarddance("data", *(item.format(tmp_path) for item in arguments)), complaint)
