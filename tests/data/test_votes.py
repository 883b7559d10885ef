from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from preference_samples import png

from diffusers_ext.data import DataError, MediaFolder, load, merge, write
from diffusers_ext.data import votes as votes_module
from diffusers_ext.data.votes import BALLOTS, Vote, VoteStore

VOTER = """
import sys
from diffusers_ext.data.votes import Vote, VoteStore
store = VoteStore(sys.argv[1])
for number in range(100_000):
    store.add(Vote(f"{sys.argv[2]}-{number}", "a red star", b"left" * 5000, b"right%d" % number, "a"))
    print(number, flush=True)
"""


def vote(key, choice="a", **others):
    return Vote(key, "a red star", png(1), png(2), choice, **others)


@pytest.fixture
def store(tmp_path):
    return VoteStore(tmp_path / "votes.sqlite")


def test_votes_come_back_as_they_were_in_order(store):
    cast = [vote(str(number), choice, judge="x", judged=0.25, maker_of_a="m") for number, choice in enumerate(BALLOTS)]
    assert [store.add(item) for item in cast] == [True] * 4
    assert list(VoteStore(store.path)) == cast
    assert [item.choice for item in store.outcomes()] == list(BALLOTS)
    assert {(item.maker_of_a, item.judge, item.judged) for item in store.outcomes()} == {("m", "x", 0.25)}


def test_a_vote_counts_once_and_one_that_was_withdrawn_does_not_come_back(store):
    assert store.add(vote("x"))
    assert not store.add(vote("x", "b"))
    assert [item.choice for item in store] == ["a"]
    assert store.withdraw("x")
    assert not store.withdraw("x")
    assert not store.add(vote("x"))
    assert len(store) == 0 == len(list(store))


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_exported_votes_are_preferences_that_the_package_reads(store, tmp_path, layout):
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    for key, choice in {"1": "a", "2": "a", "3": "b", "4": "both bad"}.items():
        store.add(vote(key, choice, instruction="alignment"))
    file = tmp_path / f"votes.{layout}"
    assert write(file, store.preferences()) == 4
    found = load(file)
    assert not found.problems
    assert [item.choice for item in found.records] == ["a", "a", "b", "tie"]
    assert {item.instruction for item in found.records} == {"alignment"}
    assert [item.source.row for item in found.records] == ["1", "2", "3", "4"]
    (merged,) = merge(found.records, MediaFolder(tmp_path))
    assert (merged.choice, merged.strength) == ("a", pytest.approx(1 / 4))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"key": " "}, "a key of its own"),
        ({"choice": "left"}, "'both bad'"),
        ({"prompt": ""}, "prompt is empty"),
        ({"b": png(1)}, "the very medium"),
    ],
)
def test_votes_that_make_no_sense_are_refused(fields, told):
    whole = {"key": "x", "prompt": "a red star", "a": png(1), "b": png(2), "choice": "a"}
    with pytest.raises(DataError, match=told):
        Vote(**whole | fields)


def test_what_was_confirmed_is_there_after_kill_9(tmp_path):
    """Two voters write at once, and both are killed in the middle."""
    file = tmp_path / "votes.sqlite"
    voters = {
        name: subprocess.Popen([sys.executable, "-c", VOTER, str(file), name], stdout=subprocess.PIPE, text=True)
        for name in "xy"
    }
    confirmed = {}
    for name, voter in voters.items():
        while confirmed.get(name, 0) < 25:
            confirmed[name] = int(voter.stdout.readline())
    for voter in voters.values():
        os.kill(voter.pid, signal.SIGKILL)
    for name, voter in voters.items():
        confirmed[name] = max([confirmed[name], *map(int, voter.stdout.read().split())])
        voter.wait()
    store = VoteStore(file)
    kept = [item.key for item in store]
    assert len(kept) == len(set(kept))
    for name, last in confirmed.items():
        mine = [int(key.split("-")[1]) for key in kept if key.startswith(name)]
        # The vote that was under way may have been kept as well.
        assert mine in (list(range(last + 1)), list(range(last + 2)))
        assert not any(store.add(vote(f"{name}-{number}")) for number in mine[-3:])
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_threads_that_vote_at_once_lose_nothing(store):
    def cast(name):
        for number in range(10):
            store.add(vote(f"{name}-{number}"))
            store.add(vote(f"shared-{number}"))

    threads = [threading.Thread(target=cast, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 50


def test_a_locked_file_says_so_and_keeps_nothing(store, monkeypatch):
    monkeypatch.setattr(votes_module, "_PATIENCE", 0.1)
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="another program"):
            store.add(vote("x"))
        other.execute("ROLLBACK")
    assert store.add(vote("x"))


def test_files_that_cannot_hold_votes_say_why(tmp_path):
    (tmp_path / "notes.txt").write_text("no database at all, but a text that is long enough to be looked at" * 20)
    with pytest.raises(DataError, match="is no file of votes"):
        VoteStore(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="cannot be written"):
        VoteStore(tmp_path)
    with pytest.raises(DataError, match="could not be read or written"):
        VoteStore(tmp_path / "notes.txt" / "votes.sqlite")
