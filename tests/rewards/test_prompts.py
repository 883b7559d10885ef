from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_ext.rewards.instructions import PRESETS, Example, Instruction
from diffusers_ext.rewards.prompts import question


def flat(messages):
    return [
        (
            message["role"],
            "".join("<image>" if part["type"] == "image" else part["text"] for part in message["content"]),
        )
        for message in messages
    ]


def test_pairwise_question_reads_as_written():
    assert flat(question(PRESETS["alignment"], "a red star", pairwise=True, explain=False)) == [
        (
            "user",
            f"{PRESETS['alignment'].text}\nPrompt: a red star\n"
            "Judged by this instruction, is the candidate better than the reference? Answer yes or no.\n"
            "Reference:<image>\nCandidate:<image>\nPrompt: a red star",
        )
    ]


def test_pointwise_question_reads_as_written():
    assert flat(question(PRESETS["aesthetics"], "a red star", pairwise=False, explain=True)) == [
        (
            "user",
            f"{PRESETS['aesthetics'].text}\nPrompt: a red star\n"
            "Judged by this instruction, is the candidate good? Explain, then answer yes or no.\n"
            "Candidate:<image>\nPrompt: a red star",
        )
    ]


@pytest.mark.parametrize("pairwise", [True, False])
def test_examples_become_earlier_turns_with_their_verdicts(pairwise):
    shown = Instruction(
        "shown",
        "Judge it.",
        ("all",),
        examples=(
            Example("first prompt", Path("good.png"), True, Path("bad.png")),
            Example("second prompt", Path("poor.png"), False),
        ),
    )
    turns = flat(question(shown, "asked prompt", pairwise=pairwise, explain=False))
    assert [role for role, _ in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert [turns[1][1], turns[3][1]] == ["yes", "no"]
    assert [text.count("<image>") for role, text in turns if role == "user"] == [2, 1, 2 if pairwise else 1]
    assert [name in text for name, (_, text) in zip(("first", "second", "asked"), turns[::2], strict=True)] == [
        True
    ] * 3


def test_what_candidates_share_comes_before_the_candidate():
    (turn,) = question(PRESETS["overall"], "a red star", pairwise=True, explain=False)
    kinds = [part["type"] for part in turn["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert turn["content"][2]["text"].strip() == "Candidate:"
