from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from diffusers_ext import RewardModel
from diffusers_ext.nano.render import render
from diffusers_ext.nano.scenes import parse_prompt, sample_scene_for
from diffusers_ext.rewards.engine import _so_far

PROMPTS = ("a photo of a red star", "a photo of three squares", "a photo of a circle left of a square")


@pytest.fixture(scope="module")
def judge():
    return RewardModel.default("cpu")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [Image.fromarray(render(sample_scene_for(rng, parse_prompt(prompt)))) for prompt in PROMPTS]


def test_what_is_told_grows_to_the_explanation(judge, scenes):
    silent = judge.compare(scenes, scenes[1:] + scenes[:1], list(PROMPTS), debias=False, explain=True)
    told: dict[int, list[str]] = {}
    aloud = judge.compare(
        scenes,
        scenes[1:] + scenes[:1],
        list(PROMPTS),
        debias=False,
        explain=True,
        on_text=lambda index, text: told.setdefault(index, []).append(text),
    )
    assert aloud == silent
    assert [texts[-1] for _, texts in sorted(told.items())] == [item.explanation for item in silent]
    for texts in told.values():
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
        assert len(set(texts)) >= 0.8 * len(texts[-1].split()), "word by word"


def test_swapped_questions_are_told_of_after_the_others(judge, scenes):
    told = {}
    (judged,) = judge.compare(scenes[0], scenes[1], PROMPTS[0], explain=True, on_text=told.__setitem__)
    assert told[0] == judged.explanation
    (swapped,) = judge.compare(scenes[1], scenes[0], PROMPTS[0], debias=False, explain=True)
    assert told[1] == swapped.explanation


def test_callers_in_one_batch_are_told_of_their_own(judge, scenes):
    def ask(number):
        told = {}
        (judged,) = judge.score(scenes[number], PROMPTS[number], explain=True, on_text=told.__setitem__)
        return told, judged.explanation

    with ThreadPoolExecutor(len(scenes)) as callers:
        for told, explanation in callers.map(ask, range(len(scenes))):
            assert told == {0: explanation}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Sharp. Verd", "Sharp."),
        ("Sharp. V", "Sharp."),
        ("Sharp. Verdict: yes", "Sharp."),
        ("Ver\u00e4nd", "Ver\u00e4nd"),
        ("caf\ufffd", "caf"),
        (" ", ""),
    ],
)
def test_what_may_still_change_is_held_back(text, kept):
    assert _so_far(text) == kept
