"""What holds for the repository as a whole."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path

from diffusers_ext.reward_training.config import RewardTraining

ROOT = Path(__file__).parents[1]


def test_no_two_files_of_tests_have_one_name():
    # pytest takes them for one module where they are collected together, and then runs none.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_docs_name_every_key_of_reward_training_with_its_default():
    text = (ROOT / "docs" / "reward-training.md").read_text(encoding="utf-8")
    table = text.split("| key | default |")[1].split("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    told = {}
    for keys, defaults, *_ in rows:
        names, values = (re.findall(r"`([^`]*)`", cell) for cell in (keys, defaults))
        told |= dict(zip(names, values or [None] * len(names), strict=True))
    known = {field.name: field.default for field in fields(RewardTraining)}
    assert told.keys() == known.keys()
    for name, default in known.items():
        if isinstance(default, bool | int | float):
            assert json.loads(told[name]) == default, name
        elif default in (None, (), MISSING):
            assert told[name] is None, name
        else:
            assert told[name] == default, name
