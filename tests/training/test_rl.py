from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks import rl

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "rl"


def looks_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["evaluation"] for entry in map(json.loads, lines) if "evaluation" in entry]


def test_a_report_is_of_the_runs_that_are_done(tmp_path, monkeypatch, capsys):
    shutil.copytree(RESULTS, tmp_path / "rl")
    shutil.copytree(RESULTS / "nft-0", tmp_path / "rl" / "draft-2")
    cut = (tmp_path / "rl" / "draft-2" / "metrics.jsonl").read_text().splitlines()[:30]
    (tmp_path / "rl" / "draft-2" / "metrics.jsonl").write_text("\n".join(cut))  # that one is under way
    monkeypatch.setattr(sys, "argv", ["rl", "--out", str(tmp_path / "rl"), "--report", "--bar", "0.7"])
    rl.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| nft |")]
    [cells] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    runs = [looks_of(folder) for folder in sorted(RESULTS.glob("nft-*"))]
    assert cells[1] == str(len(runs))
    for place, name in ((2, "second"), (4, "held_out"), (6, "exact")):
        for number, look in ((place, 0), (place + 1, -1)):
            assert float(cells[number].split()[0]) == pytest.approx(
                statistics.mean(run[look][name] for run in runs), abs=6e-4
            )
    reached = [next(look["samples"] for look in run if look["second"] >= 0.7) for run in runs]
    assert cells[9] == ", ".join(f"{value:,}" for value in reached)
    assert not (tmp_path / "rl" / "draft-2" / "state.pt").exists()
