"""docs/training-keys.md says what the records' own docstrings say, key by key, with their defaults."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from diffusers_ext.training.config import LoraTraining, References
from diffusers_ext.training.ddpo import DDPO
from diffusers_ext.training.distillation import GuidanceDistillation
from diffusers_ext.training.draft import DRaFT
from diffusers_ext.training.grpo import FlowGRPO
from diffusers_ext.training.jitter import Jitter
from diffusers_ext.training.monitors import Alarms, Evaluation
from diffusers_ext.training.nft import DiffusionNFT
from diffusers_ext.training.refl import ReFL
from diffusers_ext.training.rewards import JudgeConfig

PAGE = Path(__file__).parents[2] / "docs" / "training-keys.md"
RECORDS = {
    "run": LoraTraining,
    "judges": JudgeConfig,
    "references": References,
    "jitter": Jitter,
    "warm_start": GuidanceDistillation,
    "nft": DiffusionNFT,
    "refl": ReFL,
    "draft": DRaFT,
    "grpo": FlowGRPO,
    "ddpo": DDPO,
    "alarms": Alarms,
    "evaluation": Evaluation,
}


def attributes(record):
    """The names and the texts of a docstring's Attributes; several names may share a text."""
    found = []
    for line in inspect.getdoc(record).split("Attributes:\n")[1].splitlines():
        if start := re.match(r"    (\w[\w, ]*): (.*)$", line):
            found.append([start[1].split(", "), start[2]])
        elif line.strip():
            found[-1][1] += " " + line.strip()
    return found


def written(default):
    plain = default is not MISSING and default not in (None, ()) and isinstance(default, (bool, int, float, str))
    return f"`{yaml.safe_dump(default).splitlines()[0]}`" if plain else ""


def rows(record):
    known = {item.name: item for item in fields(record)}
    assert [name for names, _ in attributes(record) for name in names] == list(known)
    for names, text in attributes(record):
        defaults = ", ".join(filter(None, (written(known[name].default) for name in names)))
        keys = ", ".join(f"`{name}`" for name in names)
        middle = "" if record is Evaluation else f" {defaults} |" if defaults else " |"
        yield f"| {keys} |{middle} {text.replace('``', '`')} |"


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_has_every_key_with_its_default(name):
    table = PAGE.read_text(encoding="utf-8").split(f"## `{name}`")[1].split("\n## ")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == list(rows(RECORDS[name]))
