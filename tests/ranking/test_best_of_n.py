from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.ranking import RankingError, best_of_n
from diffusers_ext.rewards.errors import Cancelled, PromptTextError, RewardDanceError

PROMPT = "a red star"
QUICK = {"num_inference_steps": 2, "guidance_scale": 1.0, "max_sequence_length": 1}


def difference(first, second):
    return int(np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max())


class Painter:
    """Counts how often it is asked to paint."""

    def __init__(self):
        self.calls = 0

    def __call__(self, prompts, generator, **options):
        self.calls += 1
        return SimpleNamespace(images=[Image.new("RGB", (8, 8), "red")] * len(prompts))


@pytest.fixture(scope="module")
def five(untrained_pipeline, untrained_judge):
    return best_of_n(untrained_pipeline, PROMPT, 5, untrained_judge, seed=3, batch_size=2, **QUICK)


def test_each_picture_has_its_seed_and_place(five):
    assert five.seeds == (3, 4, 5, 6, 7)
    assert len(five.images) == 5
    assert sorted(five.ranking.order) == list(range(5))
    assert five.best is five.images[five.ranking.order[0]] is five.ranked[0]
    assert [difference(five.ranked[0], picture) > 8 for picture in five.ranked[1:]] == [True] * 4


def test_the_order_is_the_judges(five, untrained_judge):
    found = [judgement.log_odds for judgement in untrained_judge.score(list(five.images), PROMPT)]
    assert five.ranking.rewards == pytest.approx(found, abs=1e-4)
    assert five.ranking.best == int(np.argmax(found))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_pictures_do_not_depend_on_the_batch_size(five, untrained_pipeline, untrained_judge, batch_size):
    again = best_of_n(untrained_pipeline, PROMPT, 5, untrained_judge, seed=3, batch_size=batch_size, **QUICK)
    assert max(difference(*pair) for pair in zip(five.images, again.images, strict=True)) <= 1


def test_any_picture_can_be_made_again_alone(five, untrained_pipeline, untrained_judge):
    for index, seed in enumerate(five.seeds):
        alone = best_of_n(untrained_pipeline, PROMPT, 1, untrained_judge, seed=seed, **QUICK)
        assert alone.seeds == (seed,)
        assert difference(alone.best, five.images[index]) <= 1


@pytest.mark.parametrize("method", ["pointwise", "knockout", "anchored", "round-robin"])
def test_one_picture_is_the_best_of_one_by_any_method(untrained_judge, method):
    result = best_of_n(Painter(), PROMPT, 1, untrained_judge, method=method)
    assert (result.ranking.order, result.ranking.method) == ((0,), "pointwise")


def test_one_picture_can_be_held_against_a_reference(untrained_judge, pictures):
    result = best_of_n(Painter(), PROMPT, 1, untrained_judge, method="anchored", reference=pictures[0])
    assert (result.ranking.order, result.ranking.method, result.ranking.judgement_count) == ((0,), "anchored", 2)


def test_cancelling_stops_before_and_between_batches(untrained_judge):
    painter = Painter()
    with pytest.raises(Cancelled, match="after 0 of 4"):
        best_of_n(painter, PROMPT, 4, untrained_judge, cancel=lambda: True)
    assert painter.calls == 0
    answers = iter([False, True])
    with pytest.raises(Cancelled, match="after 3 of 4 pictures"):
        best_of_n(painter, PROMPT, 4, untrained_judge, batch_size=3, cancel=lambda: next(answers))
    assert painter.calls == 1


def test_cancelling_reaches_the_judge(untrained_judge):
    answers = iter([False, True])
    with pytest.raises(Cancelled, match="judgements"):
        best_of_n(Painter(), PROMPT, 2, untrained_judge, cancel=lambda: next(answers))


@pytest.mark.parametrize("n", [0, -3])
def test_fewer_than_one_picture_is_refused(untrained_judge, n):
    painter = Painter()
    with pytest.raises(RankingError, match="at least one"):
        best_of_n(painter, PROMPT, n, untrained_judge)
    assert painter.calls == 0


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(untrained_judge, batch_size):
    with pytest.raises((RankingError, ValueError), match="batch"):
        best_of_n(Painter(), PROMPT, 2, untrained_judge, batch_size=batch_size)


@pytest.mark.parametrize(
    "output",
    [
        SimpleNamespace(frames=[[Image.new("RGB", (8, 8))]]),
        SimpleNamespace(images=None),
        SimpleNamespace(images=[]),
        SimpleNamespace(images=[Image.new("RGB", (8, 8))] * 3),
        None,
    ],
    ids=["video", "none", "empty", "too many", "nothing"],
)
def test_a_pipeline_that_returns_no_pictures_is_refused(untrained_judge, output):
    with pytest.raises(RankingError, match="one picture per prompt"):
        best_of_n(lambda *_, **__: output, PROMPT, 2, untrained_judge)


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        (PROMPT, {"method": "knokout"}, RankingError),
        (PROMPT, {"method": "knockout", "reference": Image.new("RGB", (8, 8))}, RankingError),
        (PROMPT, {"instruction": "overal"}, RewardDanceError),
        ("", {}, PromptTextError),
    ],
)
def test_what_cannot_be_ranked_is_refused_before_it_is_painted(untrained_judge, prompt, options, error):
    painter = Painter()
    with pytest.raises(error):
        best_of_n(painter, prompt, 2, untrained_judge, **options)
    assert painter.calls == 0
