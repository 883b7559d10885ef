from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preference_samples import paths, png, preferences

from diffusers_ext.data import DataError, Preference, Source, check, load, locate, read, stream, write
from diffusers_ext.data.writing import whole_file

LAYOUTS = ("jsonl", "parquet")
RECORD = Preference(
    "a red star", "a.png", "b.png", "a", 0.5, 2.0, ("alignment",), "overall", "redder", Source("x", "1")
)
per_layout = pytest.mark.parametrize("layout", LAYOUTS)


@per_layout
@given(records=st.lists(preferences(paths()), max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_give_back_the_records(tmp_path, layout, records):
    file = tmp_path / f"x.{layout}"
    assert write(file, records) == len(records)
    assert load(file).records == tuple(records)
    assert load(file).problems == ()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@given(records=st.lists(preferences(st.binary(min_size=1, max_size=30) | paths()), max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parquet_holds_bytes_and_jsonl_puts_them_beside_it(tmp_path, records):
    write(tmp_path / "x.parquet", records)
    assert load(tmp_path / "x.parquet").records == tuple(records)
    write(tmp_path / "x.jsonl", records)
    for found, expected in zip(load(tmp_path / "x.jsonl").records, records, strict=True):
        for name in ("a", "b"):
            medium, path = getattr(expected, name), getattr(found, name)
            assert path == medium if isinstance(medium, str) else (tmp_path / path).read_bytes() == medium


def test_records_are_named_by_their_rows_whatever_is_wrong_with_those_before(tmp_path, pictures_in):
    pictures_in(tmp_path, "a.png", "b.png")
    good = {"prompt": "a red star", "a": "a.png", "b": "b.png", "choice": "a"}
    rows = [json.dumps(good | {"choice": "c"}), json.dumps(good | {"b": "lost.png"}), "{", json.dumps(good)]
    (tmp_path / "x.jsonl").write_text("\n".join(rows) + "\n")
    (item,), problems = locate([tmp_path / "x.jsonl"])
    assert item.place.endswith("x.jsonl, row 4")
    assert [problem.row for problem in problems] == [1, 2, 3]
    assert problems == list(check(tmp_path / "x.jsonl").problems)


def test_other_programs_read_what_is_written(tmp_path):
    write(tmp_path / "x.jsonl", [RECORD, Preference("p", "c.png", png(0), "tie")])
    first, second = (json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines())
    assert first == {
        "prompt": "a red star",
        "a": "a.png",
        "b": "b.png",
        "choice": "a",
        "strength": 0.5,
        "margin": 2.0,
        "criteria": ["alignment"],
        "instruction": "overall",
        "rationale": "redder",
        "source": {"dataset": "x", "row": "1"},
    }
    assert set(second) == {"prompt", "a", "b", "choice"}
    assert second["b"].startswith("media/")
    assert second["b"].endswith(".png")
    write(tmp_path / "x.parquet", [RECORD])
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert row["a"] == {"bytes": None, "path": "a.png"}
    assert (row["criteria"], row["strength"]) == (["alignment"], 0.5)


@per_layout
def test_unicode_and_very_long_prompts(tmp_path, layout):
    prompts = ["星 ★ 🦊\u2028 new\nline \x85", "x" * 1_000_000, "e\u0301 \u202e"]
    write(tmp_path / f"x.{layout}", (Preference(prompt, "a", "b", "tie") for prompt in prompts))
    assert [record.prompt for record in load(tmp_path / f"x.{layout}").records] == prompts


@per_layout
def test_empty_files_are_read_as_nothing(tmp_path, layout):
    file = tmp_path / f"x.{layout}"
    assert write(file, []) == 0
    assert load(file).records == ()


def test_an_empty_file_is_no_parquet(tmp_path):
    (tmp_path / "x.jsonl").touch()
    assert load(tmp_path / "x.jsonl").records == ()
    (tmp_path / "x.parquet").touch()
    with pytest.raises(DataError, match="not a parquet file"):
        load(tmp_path / "x.parquet")


def test_bad_lines_are_named_and_the_rest_is_kept(tmp_path):
    good = json.dumps({"prompt": "p", "a": "a", "b": "b", "choice": "a"}).encode()
    lines = [
        b"\xef\xbb\xbf" + good,
        b"",
        b"{not json}",
        b"[1, 2]",
        b"\xff\xfe",
        good.replace(b'"a"}', b'"A"}') + b"\r",
        b"[" * 100_000,
        good.replace(b'"p"', b'"\\ud800"'),
        good.replace(b"}", b', "strength": NaN, "margin": -1}'),
        good,
        good[:20],
    ]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    found = load(tmp_path / "x.jsonl")
    assert len(found.records) == 2
    assert [(item.row, item.field) for item in found.problems] == [
        (3, "row"),
        (4, "row"),
        (5, "row"),
        (6, "choice"),
        (7, "row"),
        (8, "prompt"),
        (9, "strength"),
        (9, "margin"),
        (11, "row"),
    ]
    assert str(found.problems[3]) == "x.jsonl, row 6: choice is 'A'; expected 'a', 'b' or 'tie'"
    assert "cut off" in found.problems[-1].message


def test_bad_rows_of_parquet_are_named_and_the_rest_is_kept(tmp_path):
    columns = {
        "prompt": ["p", None, "", "p"],
        "a": ["a", "a", "a", None],
        "b": ["b", "b", "b", "b"],
        "choice": ["a", "a", "tie", "left"],
        "user": [1, 2, 3, 4],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    found = load(tmp_path / "x.parquet")
    assert found.records == (Preference("p", "a", "b", "a"),)
    assert [(item.row, item.field) for item in found.problems] == [
        (2, "prompt"),
        (3, "prompt"),
        (4, "a"),
        (4, "choice"),
    ]


def test_a_text_of_parquet_that_is_no_text_is_named(tmp_path):
    raw = pa.array([b"p", b"\xff\xfe", b"q"], pa.binary()).view(pa.string())
    table = pa.table({"prompt": raw, "a": ["a"] * 3, "b": ["b"] * 3, "choice": ["a"] * 3})
    pq.write_table(table, tmp_path / "x.parquet")
    found = load(tmp_path / "x.parquet")
    assert [record.prompt for record in found.records] == ["p", "q"]
    assert [(item.row, "UTF-8" in item.message) for item in found.problems] == [(2, True)]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"prompt": ["p"], "a": ["a"], "b": ["b"]}, "has no column 'choice'; it has prompt, a, b"),
        ({"prompt": ["p"], "a": ["a"], "b": ["b"], "choise": ["a"]}, "'choise' .* did you mean 'choice'"),
    ],
)
def test_parquet_with_the_wrong_columns_is_refused(tmp_path, columns, complaint):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=complaint):
        load(tmp_path / "x.parquet")


def test_damaged_parquet_is_refused(tmp_path):
    write(tmp_path / "x.parquet", [RECORD] * 100)
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a parquet file"):
        load(tmp_path / "x.parquet")


@pytest.mark.parametrize(("name", "complaint"), [("x.csv", "ends in .csv"), ("x", "ends in nothing")])
def test_other_endings_are_refused(tmp_path, name, complaint):
    for act in (lambda: load(tmp_path / name), lambda: write(tmp_path / name, [RECORD])):
        with pytest.raises(DataError, match=complaint):
            act()


@per_layout
def test_missing_files_are_named(tmp_path, layout):
    with pytest.raises(DataError, match="lost"):
        load(tmp_path / f"lost.{layout}")


@per_layout
def test_if_getting_the_records_fails_the_old_file_stays(tmp_path, layout):
    def failing():
        yield from [RECORD] * 2000
        raise KeyboardInterrupt

    file = tmp_path / f"x.{layout}"
    write(file, [RECORD])
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(file, failing())
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


ENDLESS = """
import itertools, sys
from diffusers_ext.data import Preference, write

def endless():
    for number in itertools.count():
        if number == 5000:
            print("writing", flush=True)
        yield Preference(f"prompt {number}", "a.png", "b.png", "b")

write(sys.argv[1], endless())
"""


@per_layout
def test_a_write_that_is_killed_leaves_the_old_file(tmp_path, layout):
    file = tmp_path / f"x.{layout}"
    write(file, [RECORD])
    before = file.read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(file)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert file.read_bytes() == before
    # It was in the middle of it: what it had written lies beside the file, and is in nobody's way.
    (partial,) = (path for path in tmp_path.iterdir() if path != file)
    assert partial.stat().st_size > 10_000
    assert write(file, [RECORD, RECORD]) == 2
    assert load(file).records == (RECORD, RECORD)


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "x.jsonl", [RECORD])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "file" / "x.jsonl", [RECORD])
    with pytest.raises(ValueError, match="mine"), whole_file(tmp_path / "y"):
        raise ValueError("mine")
    assert not (tmp_path / "y").exists()


def test_rows_come_one_at_a_time(tmp_path):
    write(tmp_path / "x.jsonl", [RECORD] * 3)
    with (tmp_path / "x.jsonl").open("ab") as file:
        file.write(b"broken\n")
    reading = read(tmp_path / "x.jsonl")
    assert next(reading) == RECORD


@pytest.mark.parametrize("layouts", [("jsonl", "jsonl"), ("parquet", "jsonl")])
def test_streams_give_the_records_and_are_shared_out(tmp_path, layouts):
    pytest.importorskip("datasets")
    files, expected = [], []
    for number, layout in enumerate(layouts):
        (tmp_path / str(number)).mkdir()
        files.append(tmp_path / str(number) / f"x.{layout}")
        records = [Preference(f"{number} {index}", "a.png", "b.png", "tie", criteria=("x",)) for index in range(3)]
        write(files[-1], records)
        expected += [f"{number} {index}" for index in range(3)]
    found = stream(*files)
    assert found.num_shards == 2
    records = [Preference.from_row(row) for row in found]
    assert [record.prompt for record in records] == expected
    # All paths are relative to the folder of the first file.
    assert [record.a for record in records] == ["a.png"] * 3 + ["../1/a.png"] * 3
    assert [row["prompt"] for row in found.shard(2, 1)] == expected[3:]
    assert sorted(row["prompt"] for row in found.shuffle(seed=0, buffer_size=4)) == sorted(expected)


def test_streams_leave_out_bad_rows_with_a_warning(tmp_path):
    pytest.importorskip("datasets")
    write(tmp_path / "x.jsonl", [RECORD])
    with (tmp_path / "x.jsonl").open("ab") as file:
        file.write(b"broken\n")
    with pytest.warns(UserWarning, match="row 2"):
        assert [Preference.from_row(row) for row in stream(tmp_path / "x.jsonl")] == [RECORD]


def test_streams_of_nothing_are_refused(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="no files"):
        stream()
    with pytest.raises(DataError, match="no such file"):
        stream(tmp_path / "lost.jsonl")


def test_the_datasets_library_reads_the_files_by_itself(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    records = [RECORD, Preference("q", png(1), png(2), "b")]
    write(tmp_path / "x.parquet", records)
    options = {"data_files": str(tmp_path / "x.parquet"), "split": "train", "cache_dir": str(tmp_path / "cache")}
    for streaming in (True, False):
        rows = datasets.load_dataset("parquet", streaming=streaming, **options)
        assert [Preference.from_row(row) for row in rows] == records


def test_importing_it_loads_no_heavy_library():
    code = "import sys, diffusers_ext.data; print({'torch', 'pyarrow', 'datasets', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "set()\n", done.stderr
