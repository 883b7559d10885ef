from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks import rl, rl_judges

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "rl"


def looks_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["evaluation"] for entry in map(json.loads, lines) if "evaluation" in entry]


def test_a_report_is_of_the_runs_that_are_done(tmp_path, monkeypatch, capsys):
    shutil.copytree(RESULTS, tmp_path / "rl")
    cut = (tmp_path / "rl" / "draft-2" / "metrics.jsonl").read_text().splitlines()[:30]
    (tmp_path / "rl" / "draft-2" / "metrics.jsonl").write_text("\n".join(cut))  # that one is under way
    monkeypatch.setattr(sys, "argv", ["rl", "--out", str(tmp_path / "rl"), "--report", "--bar", "0.7"])
    rl.main()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    [cells] = [row for row in rows if row[0] == "nft"]
    [others] = [row for row in rows if row[0] == "draft"]
    assert others[1] == "2"
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


@pytest.mark.parametrize("benchmark", [rl, rl_judges])
def test_a_report_of_no_runs_says_what_it_looks_for(tmp_path, monkeypatch, capsys, benchmark):
    scaling = [str(tmp_path)] if benchmark is rl_judges else []
    monkeypatch.setattr(sys, "argv", ["benchmark", *scaling, "--out", str(tmp_path), "--report"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "has no run that is done" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
