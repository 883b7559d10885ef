from __future__ import annotations

import json

import pytest

from diffusers_ext.rewards.errors import InstructionError
from diffusers_ext.rewards.instructions import (
    DEFAULT_INSTRUCTION,
    PRESETS,
    Instruction,
    get_instruction,
    load_instructions,
)

TOML = """
[portrait]
text = "Judge how natural the face looks."
criteria = ["face", "skin"]

[clip]
text = "Judge the motion."
task = "t2v"

[[portrait.examples]]
prompt = "an old sailor"
candidate = "good.png"
reference = "bad.png"
verdict = true

[[portrait.examples]]
prompt = "a young sailor"
candidate = "bad.png"
verdict = false
"""


AS_DICT = {
    "portrait": {
        "text": "Judge how natural the face looks.",
        "criteria": ["face", "skin"],
        "examples": [
            {"prompt": "an old sailor", "candidate": "good.png", "reference": "bad.png", "verdict": True},
            {"prompt": "a young sailor", "candidate": "bad.png", "verdict": False},
        ],
    },
    "clip": {"text": "Judge the motion.", "task": "t2v"},
}


@pytest.fixture
def folder(tmp_path, pictures):
    pictures[0].save(tmp_path / "good.png")
    pictures[1].save(tmp_path / "bad.png")
    return tmp_path


def written(folder, content, name="own.json"):
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found_by_name_and_well_formed(name):
    found = get_instruction(name)
    assert found.name == name
    assert found.text.endswith(".")
    assert found.criteria


def test_presets_cover_three_criteria_alone_and_together():
    assert get_instruction() is PRESETS[DEFAULT_INSTRUCTION]
    single = {PRESETS[name].criteria for name in ("alignment", "aesthetics", "structure")}
    assert single == {("alignment",), ("aesthetics",), ("structure",)}
    assert PRESETS["overall"].criteria == ("alignment", "aesthetics", "structure")


def test_a_record_is_returned_as_it_is():
    own = Instruction("mine", "Judge it.", ("it",))
    assert get_instruction(own) is own
    assert get_instruction("mine", {"mine": own}) is own


def test_own_instructions_come_before_presets_of_the_same_name():
    own = Instruction("overall", "Judge it.", ("it",))
    assert get_instruction("overall", {"overall": own}) is own


@pytest.mark.parametrize(
    ("typed", "meant"), [("aligment", "alignment"), ("Overall", "overall"), ("structur", "structure")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(InstructionError, match=f"Did you mean '{meant}'"):
        get_instruction(typed)


def test_a_name_like_no_other_lists_them_all():
    with pytest.raises(InstructionError) as caught:
        get_instruction("qqqq")
    assert "Did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)


@pytest.mark.parametrize("fields", [("", "text"), (" ", "text"), ("name", ""), ("name", " \n")])
def test_an_instruction_needs_a_name_and_a_text(fields):
    with pytest.raises(InstructionError, match="empty"):
        Instruction(*fields, ())


def test_an_unknown_task_is_refused():
    with pytest.raises(InstructionError, match="t2i, t2v, i2v"):
        Instruction("name", "text", (), task="t2a")


def test_toml_and_json_of_the_same_content_load_alike(folder):
    from_toml = load_instructions(written(folder, TOML, "own.toml"))
    from_json = load_instructions(written(folder, AS_DICT))
    assert from_toml == from_json
    portrait, clip = from_toml["portrait"], from_toml["clip"]
    assert (portrait.name, portrait.criteria, portrait.task) == ("portrait", ("face", "skin"), "t2i")
    assert (clip.criteria, clip.task, clip.examples) == (("clip",), "t2v", ())
    assert [(item.prompt, item.verdict) for item in portrait.examples] == [
        ("an old sailor", True),
        ("a young sailor", False),
    ]
    assert portrait.examples[0].candidate.samefile(folder / "good.png")
    assert portrait.examples[0].reference.samefile(folder / "bad.png")
    assert portrait.examples[1].reference is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"a": {"text": "x", "texte": "y"}}, r"unknown keys \['texte'\]"),
        ({"a": {"criteria": ["x"]}}, "has no text"),
        ({"a": {"text": 5}}, "has no text"),
        ({"a": {"text": "  "}}, "empty"),
        ({"a": {"text": "x", "task": "t3i"}}, "t2i, t2v, i2v"),
        ({"a": "x"}, "one table per instruction"),
        ([], "one table per instruction"),
        ("{", "cannot be read"),
        ({"a": {"text": "x", "examples": [{"prompt": "p", "candidate": "lost.png", "verdict": True}]}}, "lost.png"),
        ({"a": {"text": "x", "examples": [{"prompt": "p", "candidate": "good.png"}]}}, "verdict"),
        ({"a": {"text": "x", "examples": [{"prompt": "p", "candidate": "good.png", "verdict": "yes"}]}}, "verdict"),
        ({"a": {"text": "x", "examples": [{"candidate": "good.png", "verdict": True}]}}, "prompt"),
        ({"a": {"text": "x", "examples": [{"prompt": "p", "image": "good.png", "verdict": True}]}}, "unknown keys"),
        ({"a": {"text": "x", "criteria": "face"}}, "criteria"),
        ({"a": {"text": "x", "criteria": 5}}, "criteria"),
        ({"a": {"text": "x", "examples": 5}}, "example"),
        ({"a": {"text": "x", "examples": [5]}}, "example"),
        ({"a": {"text": "x", "examples": [{"prompt": "p", "candidate": 5, "verdict": True}]}}, "candidate"),
    ],
)
def test_bad_json_is_refused_with_the_file_or_the_fault_named(folder, content, complaint):
    with pytest.raises(InstructionError, match=complaint):
        load_instructions(written(folder, content))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[a", "cannot be read"),
        ("text = 'x'", "one table per instruction"),
        ("[a]\ntext = 'x'\nrank = 1", r"unknown keys \['rank'\]"),
        ("[a]\ncriteria = ['x']", "has no text"),
    ],
)
def test_bad_toml_is_refused(folder, content, complaint):
    with pytest.raises(InstructionError, match=complaint):
        load_instructions(written(folder, content, "own.toml"))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(InstructionError, match=r"lost\.toml"):
        load_instructions(tmp_path / "lost.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InstructionError, match=r"binary\.toml"):
        load_instructions(tmp_path / "binary.toml")
