from __future__ import annotations

import zipfile
from collections import Counter
from random import Random

import numpy as np
import pytest
from scipy.stats import binomtest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'rewarddance[gradio]'")

from diffusers_ext.data import DataError, load
from diffusers_ext.data.votes import Outcome, VoteStore
from diffusers_ext.evaluation.arena import VoteAgreement, agreements, standard_errors, standings
from diffusers_ext.ranking import bradley_terry
from gradio_app.pairing import Pair, draw
from gradio_app.voting import Voter, export, revealed, table

STRENGTHS = {"strong": 1.0, "middling": 0.0, "weak": -1.0}


def contests(rng, count):
    """Votes by the Bradley-Terry model itself; every tenth is a tie."""
    names = list(STRENGTHS)
    found = []
    for number in range(count):
        a, b = rng.choice(3, 2, replace=False)
        wins = rng.random() < 1 / (1 + np.exp(STRENGTHS[names[b]] - STRENGTHS[names[a]]))
        found.append(Outcome("a" if wins else "b", names[a], names[b], "nano", 0.9 if number % 4 else 0.1))
    return found


def test_strengths_are_recovered_within_their_intervals():
    truth = {name: 1000 + 400 / np.log(10) * value for name, value in STRENGTHS.items()}
    rng = np.random.default_rng(0)
    covered, width = [], []
    for _ in range(60):
        for item in standings(contests(rng, 300)):
            covered.append(item.low <= truth[item.maker] <= item.high)
            width.append(item.high - item.low)
    assert 0.9 <= np.mean(covered) <= 0.99
    assert np.mean(width) < 120
    assert [item.maker for item in standings(contests(rng, 3000))] == list(STRENGTHS)


def test_standard_errors_are_those_of_the_likelihood():
    rng = np.random.default_rng(1)
    wins = rng.integers(1, 9, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)
    at = bradley_terry(wins, 0.1)

    def likelihood(s):
        logs = -np.log1p(np.exp(s[None, :] - s[:, None]))
        return (wins * logs).sum() - 0.1 * (np.log1p(np.exp(-s)) + np.log1p(np.exp(s))).sum()

    step, hessian = 1e-4, np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            one, two = np.eye(4)[i] * step, np.eye(4)[j] * step
            corners = likelihood(at + one + two) - likelihood(at + one - two)
            corners += likelihood(at - one - two) - likelihood(at - one + two)
            hessian[i, j] = corners / (4 * step**2)
    centre = np.eye(4) - 1 / 4
    expected = np.sqrt(np.diag(centre @ np.linalg.inv(-hessian) @ centre))
    assert standard_errors(at, wins + wins.T, 0.1) == pytest.approx(expected, rel=1e-4)


def test_the_judge_agrees_as_often_as_it_does():
    outcomes = [Outcome("a", "x", "y", "nano", 0.9)] * 7 + [Outcome("b", "x", "y", "nano", 0.9)] * 3
    outcomes += [Outcome("tie", "x", "y", "nano", 0.9), Outcome("a", "x", "y", None, None)]
    assert agreements(outcomes) == [VoteAgreement("nano", 7, 10)]
    expected = binomtest(7, 10).proportion_ci(0.95, "wilson")
    assert agreements(outcomes)[0].interval == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert [item.elo for item in standings([Outcome("tie", "x", "y", None, None)])] == pytest.approx([1000, 1000])
    assert standings([]) == [] == standings([Outcome("a", "x", "x", None, None)])


@pytest.fixture
def store(tmp_path):
    return VoteStore(tmp_path / "votes.sqlite")


@pytest.fixture
def pair(pictures):
    return Pair("k1", "a photo of a red star", *pictures[:2], "plain", "best of 4", "nano", 0.2, "overall")


def test_a_vote_counts_once_and_never_for_another_pair(store, pair, pictures):
    voter = Voter(pair)
    assert voter.vote(store, "k1", "a") is pair
    assert voter.vote(store, "k1", "b") is pair  # a second click
    assert [item.choice for item in store] == ["a"]
    voter.pair = pair.again()
    with pytest.raises(DataError, match="not shown any more"):
        voter.vote(store, "somebody else's", "a")
    with pytest.raises(DataError, match="'both bad'"):
        voter.vote(store, voter.pair.key, "neither")
    assert len(store) == 1


def test_undo_takes_back_the_last_vote_and_shows_its_pair_again(store, pair):
    voter = Voter(pair)
    voter.vote(store, "k1", "a")
    again = voter.undo(store)
    assert len(store) == 0
    assert again.key != "k1" and again.left is pair.left
    voter.vote(store, again.key, "both bad")
    assert [item.choice for item in store] == ["both bad"]
    voter.undo(store)
    with pytest.raises(DataError, match="no vote of yours"):
        voter.undo(store)


def test_what_is_exported_is_read_again(store, pair, tmp_path, pictures):
    with pytest.raises(DataError, match="no votes"):
        export(store, tmp_path)
    voter = Voter(pair)
    voter.vote(store, "k1", "b")
    with zipfile.ZipFile(export(store, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    found = load(tmp_path / "unpacked" / "votes.jsonl")
    assert not found.problems
    (record,) = found.records
    assert (record.choice, record.prompt, record.instruction) == ("b", "a photo of a red star", "overall")
    from PIL import Image

    read = Image.open(tmp_path / "unpacked" / record.a)
    assert read.tobytes() == pictures[0].tobytes()


def test_pairs_are_drawn_evenly_and_are_of_two_makers(untrained_judge, pictures):
    painted = Counter()

    def maker(number):
        def paint(prompt, seed):
            painted[number] += 1
            return pictures[number]

        return paint

    makers = {name: maker(number) for number, name in enumerate("xyz")}
    rng = Random(0)
    found = [draw(makers, ["a photo of a star"], untrained_judge, "nano", "overall", rng) for _ in range(30)]
    assert len({item.key for item in found}) == 30
    assert all(item.maker_of_left != item.maker_of_right for item in found)
    assert min(painted.values()) > 10
    assert {item.maker_of_left for item in found} == set("xyz") == {item.maker_of_right for item in found}
    item = found[0]
    judged = untrained_judge.compare(item.left, item.right, item.prompt)[0].reward
    assert item.judged == pytest.approx(judged, abs=1e-4)


def test_what_voters_see_is_text(pair):
    evil = "<script>alert(1)</script>"
    outcomes = [Outcome("a", evil, "y", evil, 0.9)]
    shown = table(outcomes) + revealed(Pair("k", evil, pair.left, pair.right, evil, evil, evil, 0.2, evil), "tie")
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "No votes yet" in table([])
