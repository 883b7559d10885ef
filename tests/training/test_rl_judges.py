from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import rl_judges

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
ARMS = {"reward-5m, bradley-terry": "reward-5m-bradley-terry-0", "as shipped, + reference": "as-shipped-reference-0"}


def test_the_table_is_of_runs_that_are_done_and_trains_nothing(tmp_path, monkeypatch, capsys):
    shutil.copytree(RESULTS / "rl_judges", tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    words = [str(RESULTS / "reward_scaling"), "--out", str(tmp_path / "out"), "--seeds", "0", "--arms", *ARMS]
    monkeypatch.setattr(sys, "argv", ["rl_judges", *words])
    rl_judges.main()
    assert sorted(tmp_path.rglob("*")) == before
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    assert [row[0] for row in rows[2:]] == ["before training", *ARMS]
    for row, folder in zip(rows[3:], ARMS.values(), strict=True):
        lines = (RESULTS / "rl_judges" / folder / "metrics.jsonl").read_text().splitlines()
        looks = [entry["evaluation"] for entry in map(json.loads, lines) if "evaluation" in entry]
        first, last = looks[0], looks[-1]
        shares = [last[name] / first[name] for name in ("pixel_diversity", "feature_diversity")]
        expected = (
            last["second"], last["held_out"], last["exact"], last["reward"] - first["reward"],
            last["group_deviation"] / first["group_deviation"], min(shares),
        )  # fmt: skip
        assert row[1] == "1"
        assert [float(cell) for cell in row[2:]] == pytest.approx(expected, abs=6e-4)


def test_judges_are_those_that_were_measured_and_the_shipped_one(tmp_path):
    found = rl_judges.arms_of(tmp_path, seed=0)
    assert list(found) == ["as shipped", "as shipped, + reference", "as shipped, + chain of thought"]
    everyone = rl_judges.arms_of(RESULTS / "reward_scaling", seed=2)
    assert len(everyone) == 4 * 2 + 3
    assert {judge.scale for name, judge in everyone.items() if "bradley" in name} == {"log_odds"}
    assert {judge.instruction for judge in everyone.values()} == {"exactness"}


def test_a_judge_that_is_not_there_is_named_with_those_that_are(tmp_path, monkeypatch, capsys):
    words = [str(tmp_path), "--out", str(tmp_path / "out"), "--seeds", "0", "--arms", "as shiped"]
    monkeypatch.setattr(sys, "argv", ["rl_judges", *words])
    with pytest.raises(SystemExit):
        rl_judges.main()
    assert "there is no 'as shiped'" in (told := capsys.readouterr().err) and "'as shipped'" in told
    assert not (tmp_path / "out").exists()
