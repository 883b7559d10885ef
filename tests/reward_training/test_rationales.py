from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.data import Located, Preference, check, load, write
from diffusers_ext.nano.preferences import sample_pairs
from diffusers_ext.reward_training.rationales import sample_rationales
from diffusers_ext.rewards.model import RewardModel


@pytest.fixture(scope="module")
def judge():
    return RewardModel.default("cpu")


@pytest.fixture
def items(tmp_path):
    """Pairs of the nano world, with what is true of them; of the first the wrong one is called better."""
    found = []
    pairs = list(islice(sample_pairs(np.random.default_rng(3), instruction="alignment"), 6))
    for number, pair in enumerate(pairs):
        for side, picture in (("a", pair.candidate), ("b", pair.reference)):
            Image.fromarray(picture.pixels).save(tmp_path / f"{number}{side}.png")
        choice = "a" if pair.better != (number == 0) else "b"
        record = Preference(pair.spec.text, f"{number}a.png", f"{number}b.png", choice, instruction="alignment")
        found.append(Located(record, tmp_path, f"record {number}"))
    return found


def test_what_is_kept_was_followed_by_the_right_verdict(judge, items):
    found = list(sample_rationales(judge, items, samples=3, seed=1))
    assert sum(item.record.rationale is not None for item in found) >= 4
    for item, given in zip(found, items, strict=True):
        assert item.written == 3 and (item.right > 0) == (item.record.rationale is not None)
        if item.record.rationale is None:
            assert item.record == given.record
            continue
        assert re.search(r"Candidate: .*Reference: ", item.record.rationale)
        a, b = (given.open(getattr(given.record, side)) for side in "ab")
        question = judge.question(a, given.record.prompt, b, "alignment", explain=True, thought=item.record.rationale)
        (value,) = judge.answer([question])
        assert (value > 0) == (given.record.choice == "a")


def test_the_same_seed_writes_the_same_and_no_temperature_writes_the_likeliest(judge, items):
    one, same, other = (
        [item.record.rationale for item in sample_rationales(judge, items[1:4], samples=2, temperature=1.5, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert one == same != other
    (greedy,) = sample_rationales(judge, items[1:2], temperature=0.0)
    (judgement,) = judge.compare(
        items[1].open(items[1].record.a),
        items[1].open(items[1].record.b),
        items[1].record.prompt,
        "alignment",
        debias=False,
        explain=True,
    )
    assert greedy.written == 1 and greedy.record.rationale in (None, judgement.explanation)


def test_ties_have_nothing_to_be_reasoned_about(judge, items):
    tie = replace(items[0], record=replace(items[0].record, choice="tie"))
    (found,) = sample_rationales(judge, [tie])
    assert found.record == tie.record and found.written == 0


def test_on_the_command_line_the_new_file_may_lie_elsewhere(items, tmp_path, rewarddance):
    write(tmp_path / "pairs.jsonl", [item.record for item in items[:3]])
    out = tmp_path / "reasoned" / "pairs.jsonl"
    out.parent.mkdir()
    found = rewarddance("data", "reason", tmp_path / "pairs.jsonl", out, "--samples", 2, "--json")
    assert found.code == 0, found.stderr
    told = json.loads(found.stdout)
    records = load(out).records
    assert (told["records"], told["written"]) == (3, 6)
    assert sum(record.rationale is not None for record in records) == told["with_rationale"] >= 1
    assert check(out).problems == ()
