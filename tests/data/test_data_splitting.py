from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from diffusers_ext.data import DataError, MediaFolder, Preference, load, plan_splits, split_file, write
from diffusers_ext.data.prompts import normalized

NOWHERE = MediaFolder("nowhere")
RECORDS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 20), st.integers(21, 40), st.sampled_from(["prompt", "PROMPT "])).map(
        lambda item: Preference(f"{item[3]} {item[0]}", f"{item[1]}.png", f"{item[2]}.png", "a")
    ),
    min_size=1,
    max_size=20,
)


def spelling(record):
    return record.prompt.lower().replace("  ", " ")


SHARES = st.tuples(st.floats(0, 0.5), st.floats(0, 0.5))


@given(RECORDS, SHARES, st.integers(0, 2**70))
@settings(deadline=None)
def test_no_prompt_and_no_picture_is_in_two_splits(records, shares, seed):
    plan = plan_splits(records, NOWHERE, *shares, seed)
    homes = {}
    for record in records:
        for thing in (spelling(record), record.a, record.b):
            assert homes.setdefault(thing, plan.split_of(record)) == plan.split_of(record)


@given(RECORDS)
@settings(deadline=None)
def test_groups_are_no_larger_than_they_must_be(records):
    things = {thing: number for number, thing in enumerate({x for r in records for x in (spelling(r), r.a, r.b)})}
    edges = np.array([(things[spelling(r)], things[x]) for r in records for x in (r.a, r.b)])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(things), len(things)))
    count, labels = connected_components(graph, directed=False)
    plan = plan_splits(records, NOWHERE)
    assert plan.groups == count
    assert plan.largest == max(Counter(labels[things[spelling(record)]] for record in records).values())
    assert plan.records == len(records)


@given(RECORDS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_records_does_not_matter(records, random):
    first = plan_splits(records, NOWHERE, 0.3, 0.3)
    random.shuffle(records)
    assert plan_splits(records, NOWHERE, 0.3, 0.3).splits == first.splits


@given(RECORDS, st.lists(st.integers(0, 50), max_size=10))
@settings(deadline=None)
def test_new_prompts_with_new_pictures_move_nothing(records, new):
    before = plan_splits(records, NOWHERE, 0.3, 0.3).splits
    added = [Preference(f"new {number}", f"new {number}a", f"new {number}b", "b") for number in new]
    # Known prompts may get new pictures as well.
    added.append(Preference(records[0].prompt, "fresh 1", "fresh 2", "a"))
    after = plan_splits([*added, *records], NOWHERE, 0.3, 0.3).splits
    assert before.items() <= after.items()


def test_the_shares_are_met_and_seeds_differ():
    records = [Preference(f"prompt {number}", f"{number}a", f"{number}b", "a") for number in range(10_000)]
    plan = plan_splits(records, NOWHERE, 0.2, 0.1)
    counts = Counter(plan.splits.values())
    # Three standard deviations of a binomial are 120 and 90.
    assert counts["validation"] == pytest.approx(2000, abs=120)
    assert counts["test"] == pytest.approx(1000, abs=90)
    assert plan_splits(records, NOWHERE, 0.2, 0.1, seed=1).splits != plan.splits
    assert set(plan_splits(records, NOWHERE, 0.0, 0.0).splits.values()) == {"train"}
    assert set(plan_splits(records, NOWHERE, 0.0, 1.0).splits.values()) == {"test"}


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.6, 0.5), (float("nan"), 0.1)])
def test_shares_that_mean_nothing_are_refused(shares):
    with pytest.raises(DataError, match="at most 1"):
        plan_splits([], NOWHERE, *shares)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
def test_what_looks_the_same_is_the_same_prompt(prompt):
    form = normalized(prompt)
    assert normalized(form) == form
    for same in (f"  {prompt}\n", unicodedata.normalize("NFD", prompt), unicodedata.normalize("NFKC", prompt)):
        assert normalized(same) == form
    assert normalized("Ｓtraße \t e\u0301") == normalized("STRASSE É")


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_a_file_is_split_into_a_new_folder(tmp_path, layout, pictures_in):
    names = [f"images/{number}.png" for number in range(40)]
    pictures_in(tmp_path / "data", *names)
    # Each picture is there twice, so that only its content tells what belongs together.
    for number in range(40):
        copy = tmp_path / "data" / f"images/{number} copy.png"
        copy.write_bytes((tmp_path / "data" / names[number]).read_bytes())
    records = [
        Preference(
            f"prompt {number}", names[number], f"images/{(number + 1) % 40 if number % 2 else number} copy.png", "a"
        )
        for number in range(1, 40, 2)
    ] + [Preference(f"PROMPT {number}", names[number - 1], names[number], "b") for number in range(1, 40, 8)]
    file = tmp_path / "data" / f"all.{layout}"
    write(file, records)
    if layout == "jsonl":
        file.write_bytes(file.read_bytes() + b"broken\n")
    out = tmp_path / "deep" / "splits"
    done = split_file(file, out, 0.3, 0.3)
    assert [problem.row for problem in done.problems] == ([26] if layout == "jsonl" else [])
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}.{layout}" for name in ("test", "train", "validation")
    ]
    assert list(out.parent.iterdir()) == [out]
    homes, total = {}, []
    for split in ("train", "validation", "test"):
        found = load(out / f"{split}.{layout}").records
        assert len(found) == done.counts[split]
        for record in found:
            contents = [(out / path).read_bytes() for path in (record.a, record.b)]
            for thing in (record.prompt.casefold(), *contents):
                assert homes.setdefault(thing, split) == split
        total += found
    assert Counter(record.prompt for record in total) == Counter(record.prompt for record in records)
    with pytest.raises(DataError, match="holds something already"):
        split_file(file, out)


def test_pictures_that_are_not_there_are_known_by_their_paths(tmp_path):
    records = [Preference(f"prompt {number}", "images/same.png", f"{number}.png", "a") for number in range(20)]
    write(tmp_path / "x.jsonl", records)
    done = split_file(tmp_path / "x.jsonl", tmp_path / "out", 0.4, 0.4)
    assert done.plan.groups == 1
    assert sorted(done.counts.values()) == [0, 0, 20]


def test_an_empty_file_is_not_split(tmp_path):
    write(tmp_path / "x.jsonl", [])
    with pytest.raises(DataError, match="no record"):
        split_file(tmp_path / "x.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
