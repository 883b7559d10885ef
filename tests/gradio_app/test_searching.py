from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from diffusers_ext.ranking import RankingError, best_of_n, rank
from diffusers_ext.rewards.errors import Cancelled
from gradio_app.guiding import METHODS, guide, method_of
from gradio_app.searching import search

PROMPT = "a photo of a red star"
OPTIONS = {"num_inference_steps": 4, "guidance_scale": 3.0, "max_sequence_length": 1}


@pytest.fixture
def painting(untrained_pipeline):
    return lambda: nullcontext(untrained_pipeline)


@pytest.mark.parametrize("method", ["pointwise", "knockout"])
def test_a_search_ends_where_best_of_n_does(painting, untrained_judge, untrained_pipeline, method):
    steps = list(search(painting, untrained_judge, PROMPT, 6, method, "alignment", 3, OPTIONS))
    whole = best_of_n(untrained_pipeline, PROMPT, 6, untrained_judge, method, "alignment", seed=3, **OPTIONS)
    assert steps[-1].seeds == whole.seeds
    assert steps[-1].order == whole.ranking.order
    assert steps[-1].rewards == pytest.approx(whole.ranking.rewards, abs=1e-3)
    for one, other in zip(steps[-1].images, whole.images, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1  # batches of another size


def test_it_is_shown_and_counted_as_it_goes(painting, untrained_judge):
    steps = list(search(painting, untrained_judge, PROMPT, 6, "knockout", "alignment", 0, OPTIONS))
    assert [len(step.images) for step in steps] == [4, 6, 6]
    assert [step.method for step in steps] == ["pointwise", "pointwise", "knockout"]
    assert [step.evaluations for step in steps] == [4 * 4 * 2, 6 * 4 * 2, 6 * 4 * 2]  # guidance evaluates twice
    assert [step.judgements for step in steps] == [4, 6, 6 + 2 * 5]
    for step in steps[:2]:
        assert step.rewards[step.best] == max(step.rewards)
        pointwise = rank(step.images, PROMPT, untrained_judge, instruction="alignment")
        assert step.order == pointwise.order
    assert [point.evaluations for point in steps[-1].trace] == [32, 48]
    assert [item["seed"] for item in steps[-1].as_dict()["samples"]] == [steps[-1].seeds[i] for i in steps[-1].order]


def test_it_stops_when_asked_and_refuses_what_makes_no_sense(painting, untrained_judge):
    with pytest.raises(Cancelled):
        list(search(painting, untrained_judge, PROMPT, 4, "pointwise", "alignment", 0, OPTIONS, lambda: True))
    with pytest.raises(RankingError, match="round-robin"):
        next(search(painting, untrained_judge, PROMPT, 4, "best", "alignment", 0, OPTIONS))
    with pytest.raises(RankingError, match="at least one sample"):
        next(search(painting, untrained_judge, PROMPT, 0, "pointwise", "alignment", 0, OPTIONS))


@pytest.mark.parametrize("name", METHODS)
def test_the_base_is_the_plain_pipeline_and_guidance_costs_as_much(painting, untrained_judge, untrained_pipeline, name):
    method = method_of(name, 4, 2, 1, 2.0)
    base, both = guide(painting, untrained_judge, PROMPT, method, "alignment", 5, {**OPTIONS, "num_inference_steps": 6})
    plain = best_of_n(untrained_pipeline, PROMPT, 4, untrained_judge, seed=5, **{**OPTIONS, "num_inference_steps": 6})
    assert [image.tobytes() for image in base.base.images] == [image.tobytes() for image in plain.images]
    assert base.guided is None
    assert both.guided.evaluations == both.base.evaluations == 4 * 6 * 2
    curve = both.curve()
    assert {of for _, _, of in curve} == {"base, best", "base, mean", "guided, best", "guided, mean"}
    assert [step for step, _, of in curve if of == "guided, best"] == [2, 4, 6]
    last = {of: value for step, value, of in curve if step == 6}
    assert last["base, best"] == max(both.base.ranking.rewards)
    assert last["guided, mean"] == pytest.approx(np.mean(both.guided.ranking.rewards))
