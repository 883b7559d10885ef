from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from comfy_nodes.records import append
from diffusers_ext.data import DataError, Preference, load, write
from diffusers_ext.rewards.images import as_png

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from comfy_nodes.records import append
from diffusers_ext.data import Preference
path, name = Path(sys.argv[1]), sys.argv[2]
for number in range(40):
    append(path, Preference(f"{name} {number}", "a.png", "b.png", "a", rationale="because " * 2000))
"""


@pytest.fixture
def record(pictures):
    return Preference("a red star", as_png(pictures[0]), as_png(pictures[1]), "a", rationale="sharper")


def test_records_that_are_added_are_those_that_are_written_at_once(tmp_path, record):
    other = Preference("a blue circle", record.b, record.a, "tie")
    for item in (record, other):
        append(tmp_path / "added" / "votes.jsonl", item)
    write(tmp_path / "whole" / "votes.jsonl", [record, other])
    added, whole = ((tmp_path / name / "votes.jsonl").read_bytes() for name in ("added", "whole"))
    assert added == whole
    assert {item.name for item in (tmp_path / "added").iterdir()} == {"votes.jsonl", "media"}


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path, record):
    file = tmp_path / "votes.jsonl"
    append(file, record)
    cut = file.read_bytes()[:-20]
    file.write_bytes(cut)
    append(file, record)
    assert file.read_bytes().startswith(cut + b"\n")
    found = load(file)
    assert (len(found.records), len(found.problems)) == (1, 1)


def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path):
    file = tmp_path / "votes.jsonl"
    command = [sys.executable, "-c", WRITER, str(file)]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = load(file)
    assert not found.problems
    expected = {f"{name} {number}" for name in ("one", "two") for number in range(40)}
    assert {item.prompt for item in found.records} == expected
    assert len(found.records) == 80


def test_a_place_that_cannot_be_written_is_named(tmp_path, record):
    (tmp_path / "votes.jsonl").mkdir()
    with pytest.raises(DataError, match=r"votes\.jsonl: cannot be written"):
        append(tmp_path / "votes.jsonl", record)
    assert {item.name for item in tmp_path.iterdir()} <= {"votes.jsonl", "media"}
