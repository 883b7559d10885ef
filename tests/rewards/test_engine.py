from __future__ import annotations

import pytest
import torch

from diffusers_ext.ranking import rank
from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.model import RewardModel

PROMPT = "a red star"


def values(judgements):
    return [judgement.log_odds for judgement in judgements]


@pytest.fixture
def cramped(untrained_judge, monkeypatch):
    """Runs out of memory whenever more than `room` rows are read at a time."""
    read = untrained_judge.backbone.read

    def limit(room):
        sizes = []

        def in_little_room(embeddings, *rest):
            sizes.append(len(embeddings))
            if len(embeddings) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return read(embeddings, *rest)

        monkeypatch.setattr(untrained_judge.backbone, "read", in_little_room)
        return sizes

    return limit


@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize("explain", [False, True])
def test_running_out_of_memory_halves_the_batch_and_loses_nothing(untrained_judge, pictures, cramped, room, explain):
    judge = RewardModel(untrained_judge.model, untrained_judge.processor, "brief", RewardConfig(max_new_tokens=3))
    judge.backbone = judge._engine.backbone = untrained_judge.backbone
    expected = judge.compare(pictures[1:], pictures[0], PROMPT, explain=explain)
    sizes = cramped(room)
    found = judge.compare(pictures[1:], pictures[0], PROMPT, explain=explain)
    assert values(found) == pytest.approx(values(expected), abs=1e-4)
    assert [item.explanation for item in found] == [item.explanation for item in expected]
    assert max(sizes) > room


def test_a_single_question_that_does_not_fit_says_what_to_do(untrained_judge, pictures, cramped):
    cramped(0)
    with pytest.raises(ModelError, match="quantized"):
        untrained_judge.score(pictures, PROMPT)


@pytest.mark.parametrize("method", ["anchored", "knockout", "round-robin"])
def test_a_ranking_looks_at_each_picture_once(untrained_judge, pictures, monkeypatch, method):
    seen = []
    look = untrained_judge.backbone.look
    monkeypatch.setattr(untrained_judge.backbone, "look", lambda pixels: seen.append(len(pixels.rows)) or look(pixels))
    rank(pictures, PROMPT, untrained_judge, method=method)
    assert sum(seen) == len(pictures)


def test_nothing_is_kept_after_a_call(untrained_judge, pictures):
    import gc

    def alive():
        gc.collect()
        return sum(isinstance(item, torch.Tensor) for item in gc.get_objects())

    untrained_judge.score(pictures, PROMPT)
    before = alive()
    rank(pictures, PROMPT, untrained_judge, method="round-robin")
    untrained_judge.compare(pictures[1:], pictures[0], PROMPT)
    assert alive() == before


def test_the_same_question_twice_is_answered_once(untrained_judge, pictures, monkeypatch):
    rows = []
    read = untrained_judge.backbone.read
    monkeypatch.setattr(
        untrained_judge.backbone, "read", lambda first, *rest: rows.append(len(first)) or read(first, *rest)
    )
    found = values(untrained_judge.score([pictures[0], pictures[1], pictures[0].copy()], PROMPT))
    assert found[0] == found[2] != found[1]
    assert sum(rows) == 3  # what they share, and two pictures


def test_answers_that_are_read_a_batch_later_are_the_same_and_none_is_lost(untrained_judge, pictures, monkeypatch):
    asked = [untrained_judge.question(picture, PROMPT) for picture in pictures]
    engine = untrained_judge._engine
    at_once = list(engine.log_odds(asked, 2))
    monkeypatch.setattr("diffusers_ext.rewards.engine.batches_behind", lambda device: 1)
    assert list(engine.log_odds(asked, 2)) == at_once
    read, calls = untrained_judge.backbone.read, []

    def failing(*arguments):
        calls.append(None)
        if len(calls) == 3:  # what all share was read by the first
            raise RuntimeError("the device is gone")
        return read(*arguments)

    monkeypatch.setattr(untrained_judge.backbone, "read", failing)
    found = engine.log_odds(asked, 2)
    assert next(found) == at_once[0]
    with pytest.raises(RuntimeError, match="gone"):
        next(found)
