from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.ranking import METHODS, RankingError, rank
from diffusers_ext.rewards.judgement import Judgement

SIZES = (2, 3, 5, 6, 7, 8, 13)
ANCHOR = 0.25


class KnowingJudge:
    """Pictures are numbers, and their strengths are those numbers."""

    def __init__(self):
        self.questions = 0
        self.options = []

    def score(self, images, prompt, instruction, **options):
        self.questions += len(images)
        self.options.append(options)
        return [Judgement(strength, str(instruction), (), index) for index, strength in enumerate(images)]

    def compare(self, candidates, reference, prompt, instruction, debias, **options):
        against = reference if isinstance(reference, list) else [reference] * len(candidates)
        self.questions += len(candidates) * (2 if debias else 1)
        self.options.append(options)
        return [
            Judgement(one - other, str(instruction), (), index, index, debiased=debias)
            for index, (one, other) in enumerate(zip(candidates, against, strict=True))
        ]


def strengths_of(number, seed=0):
    return np.random.default_rng(seed).permutation(np.linspace(-2.0, 2.0, number)).tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_the_best_comes_first(method, size):
    for seed in range(5):
        strengths = strengths_of(size, seed)
        ranking = rank(strengths, "a star", KnowingJudge(), method)
        assert ranking.best == ranking.order[0] == int(np.argmax(strengths))
        assert sorted(ranking.order) == list(range(size))
        ranked_by = [ranking.rewards[index] for index in ranking.order]
        assert ranked_by == sorted(ranking.rewards, reverse=True)


@pytest.mark.parametrize("method", ["pointwise", "anchored", "round-robin"])
def test_methods_that_see_everyone_alike_order_everyone(method):
    strengths = strengths_of(9)
    assert list(rank(strengths, "a star", KnowingJudge(), method).order) == np.argsort(strengths)[::-1].tolist()


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("method", "comparisons"),
    [
        ("anchored", lambda size: size - 1),
        ("knockout", lambda size: size - 1),
        ("round-robin", lambda size: size * (size - 1) // 2),
    ],
)
def test_comparisons_are_as_many_as_promised(method, comparisons, size, debias):
    judge = KnowingJudge()
    ranking = rank(strengths_of(size), "a star", judge, method, debias=debias)
    assert len(ranking.judgements) == comparisons(size)
    assert ranking.judgement_count == judge.questions == comparisons(size) * (2 if debias else 1)
    assert ranking.method == method


@pytest.mark.parametrize("debias", [True, False])
def test_pointwise_asks_once_for_each(debias):
    judge = KnowingJudge()
    assert rank(strengths_of(7), "a star", judge, debias=debias).judgement_count == judge.questions == 7


@pytest.mark.parametrize("size", [1, 2, 5])
def test_anchored_with_a_reference_compares_everyone_with_it(size):
    judge, strengths = KnowingJudge(), strengths_of(size)
    ranking = rank(strengths, "a star", judge, "anchored", reference=ANCHOR)
    assert ranking.judgement_count == judge.questions == 2 * size
    assert ranking.rewards == pytest.approx([strength - ANCHOR for strength in strengths])
    assert {item.reference for item in ranking.judgements} == {"reference"}, "it is none of the candidates"


def test_anchored_without_one_holds_everyone_against_the_first():
    strengths = strengths_of(5)
    ranking = rank(strengths, "a star", KnowingJudge(), "anchored")
    assert ranking.rewards == pytest.approx([strength - strengths[0] for strength in strengths])
    assert [(item.candidate, item.reference) for item in ranking.judgements] == [(i, 0) for i in range(1, 5)]


@pytest.mark.parametrize("method", ["anchored", "knockout", "round-robin"])
def test_judgements_name_the_candidates_by_their_place_in_the_list(method):
    strengths = strengths_of(6)
    for judgement in rank(strengths, "a star", KnowingJudge(), method).judgements:
        assert judgement.log_odds == strengths[judgement.candidate] - strengths[judgement.reference]


@pytest.mark.parametrize("method", METHODS)
def test_the_telling_judgement_of_a_place(method):
    strengths = strengths_of(6)
    ranking = rank(strengths, "a star", KnowingJudge(), method)
    told = [ranking.telling(index) for index in ranking.order]
    for index, item in zip(ranking.order, told, strict=True):
        assert item is None or index in (item.candidate, item.reference)
    if method == "pointwise":
        assert [item.candidate for item in told] == list(ranking.order)
    elif method == "anchored":
        assert [index for index, item in zip(ranking.order, told, strict=True) if item is None] == [0]
    else:
        assert {told[0].candidate, told[0].reference} == set(ranking.order[:2]), "the winner's over the runner-up"
        for index, item in zip(ranking.order[1:], told[1:], strict=True):
            other = item.reference if item.candidate == index else item.candidate
            assert strengths[other] > strengths[index], "what says why it is not further ahead"
    if method == "round-robin":
        assert {told[3].candidate, told[3].reference} == set(ranking.order[2:4])


def test_round_robin_compares_every_pair_once():
    found = rank(strengths_of(6), "a star", KnowingJudge(), "round-robin").judgements
    assert len({frozenset((item.candidate, item.reference)) for item in found}) == 15


@pytest.mark.parametrize("size", [*SIZES, 16])
def test_knockout_lets_nobody_who_lost_play_again_and_ranks_by_rounds_survived(size):
    ranking = rank(strengths_of(size), "a star", KnowingJudge(), "knockout")
    out = []
    for judgement in ranking.judgements:
        players = {judgement.candidate, judgement.reference}
        assert not players & set(out)
        out.append(judgement.reference if judgement.log_odds >= 0 else judgement.candidate)
    assert len(out) == size - 1
    assert ranking.best not in out
    assert ranking.order[1] == out[-1]  # the other finalist
    assert max(ranking.rewards) == math.ceil(math.log2(size))


def test_of_losers_in_one_round_the_narrower_comes_first():
    assert rank([3.0, 2.9, 1.0, -1.0], "a star", KnowingJudge(), "knockout").order == (0, 2, 1, 3)


def test_knockout_keeps_rounds_apart_however_clear_the_defeat():
    ranking = rank([0.0, 1e5, 2e5, 1.0], "a star", KnowingJudge(), "knockout")
    assert ranking.order[:2] == (2, 1)
    assert all(math.isfinite(reward) for reward in ranking.rewards)


@pytest.mark.parametrize("method", ["pointwise", "anchored", "round-robin"])
def test_of_equals_the_earlier_comes_first(method):
    assert rank([1.0, 2.0, 1.0, 2.0, 1.0], "a star", KnowingJudge(), method).order == (1, 3, 0, 2, 4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_where_all_are_equal_the_first_is_best(method, size):
    ranking = rank([1.0] * size, "a star", KnowingJudge(), method)
    assert ranking.best == 0
    if method != "knockout":
        assert ranking.order == tuple(range(size))


def test_one_picture_can_be_ranked_pointwise():
    assert rank([1.0], "a star", KnowingJudge()).order == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_options_reach_the_judge_in_every_call(method):
    judge = KnowingJudge()
    rank(strengths_of(5), "a star", judge, method, batch_size=3, explain=True)
    assert judge.options
    assert all(options == {"batch_size": 3, "explain": True} for options in judge.options)


@pytest.mark.parametrize(
    ("images", "options", "complaint"),
    [
        ([1.0, 2.0], {"method": "knokout"}, "Did you mean 'knockout'"),
        ([1.0, 2.0], {"method": "zzz"}, "pointwise, anchored, knockout, round-robin"),
        (Image.new("RGB", (8, 8)), {}, "expected several pictures"),
        ("a.png", {}, "got str to rank"),
        ([], {}, "nothing to rank"),
        ([], {"method": "knockout"}, "nothing to rank"),
        ([1.0], {"method": "knockout"}, "nothing to be compared with"),
        ([1.0], {"method": "anchored"}, "nothing to be compared with"),
        ([1.0], {"method": "round-robin"}, "nothing to be compared with"),
        ([1.0, 2.0], {"method": "pointwise", "reference": ANCHOR}, "'anchored'"),
        ([1.0, 2.0], {"method": "knockout", "reference": ANCHOR}, "'anchored'"),
    ],
)
def test_a_ranking_that_cannot_be_made_is_refused(images, options, complaint):
    judge = KnowingJudge()
    with pytest.raises(RankingError, match=complaint):
        rank(images, "a star", judge, **options)
    assert judge.questions == 0


@pytest.mark.parametrize("method", METHODS)
def test_as_dict_survives_json(method):
    ranking = rank(strengths_of(4), "a star", KnowingJudge(), method)
    content = json.loads(json.dumps(ranking.as_dict()))
    assert content["order"] == list(ranking.order)
    assert content["rewards"] == list(ranking.rewards)
    assert content["judgement_count"] == ranking.judgement_count
    assert len(content["judgements"]) == len(ranking.judgements)


@pytest.mark.parametrize("method", METHODS)
def test_a_real_judge_ranks_by_its_own_judgements(untrained_judge, pictures, method):
    ranking = rank(pictures, "a red star", untrained_judge, method)
    for judgement in ranking.judgements:
        first, second = pictures[judgement.candidate], judgement.reference
        if second is None:
            (again,) = untrained_judge.score(first, "a red star")
        else:
            (again,) = untrained_judge.compare(first, pictures[second], "a red star")
        assert judgement.log_odds == pytest.approx(again.log_odds, abs=1e-4)
    if method == "pointwise":
        assert list(ranking.rewards) == [judgement.log_odds for judgement in ranking.judgements]
