from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.nano import GENERATOR_OPTIONS
from diffusers_ext.ranking import best_of_n
from diffusers_ext.rewards.errors import Cancelled, PromptTextError
from diffusers_ext.sampling import (
    BeamSearch,
    Drafts,
    FeynmanKac,
    Gradient,
    NoiseOptimization,
    RandomSearch,
    Redrafts,
    RewardGuidedPipeline,
    SamplingError,
    SearchOverPaths,
    Trace,
    ZeroOrder,
)
from tests.sampling.redness import Redness, pixels

PROMPT = "a photo of a star"  # of any colour, so that there is something to choose
OPTIONS = {**GENERATOR_OPTIONS, "guidance_scale": 3.0, "num_inference_steps": 8}
PASSES = 2  # classifier-free guidance: the network is evaluated twice per step


def plain(pipeline, count: int, seed: int = 0, **options):
    generators = [torch.Generator().manual_seed(seed + number) for number in range(count)]
    return pipeline([PROMPT] * count, generator=generators, **{**OPTIONS, **options}).images


@pytest.mark.parametrize(
    "method",
    [
        RandomSearch(4),
        RandomSearch(4, keep=4),
        FeynmanKac(4, strength=0.0),
        BeamSearch(4, width=4),
        Gradient(4, length=0.0),
    ],
)
def test_a_method_that_changes_nothing_is_the_plain_pipeline_bit_for_bit(pipeline, redness, method):
    """A beam as wide as there are particles changes their order alone."""
    guided = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    assert sorted(map(bytes, pixels(guided.images))) == sorted(map(bytes, pixels(plain(pipeline, 4))))
    assert guided.evaluations == 4 * 8 * PASSES


def test_one_particle_is_the_plain_pipeline_whatever_the_strength(pipeline, redness):
    method = FeynmanKac(1, strength=5.0, threshold=1.0)
    guided = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, seed=3, **OPTIONS)
    best = best_of_n(pipeline, PROMPT, 1, redness, seed=3, **OPTIONS)
    assert (pixels(guided.images) == pixels(best.images)).all()


COSTS = [  # evaluations of the network per sample and step, and judgements, counted by hand
    (RandomSearch(6), 6 * 8, 6),
    (RandomSearch(6, keep=2, look=0.5), 6 * 4 + 2 * 4, 6 + 2),
    (Drafts(6, steps=2, keep=2, begin=0.5), 6 * 2 + 2 * 4, 6 + 2),
    (Drafts(6, steps=4, keep=1, begin=0.0), 6 * 4 + 8, 6 + 1),
    (Drafts(6, steps=2, keep=2, begin=0.5, lot=4), 6 * 2 + 2 * 4, 6 + 2),
    (ZeroOrder(3, neighbours=2, rounds=2), (3 + 2 * 2) * 8, 7 + 1),
    (ZeroOrder(3, neighbours=2, rounds=2, steps=3), (3 + 2 * 2) * 3 + 8, 7 + 1),
    (SearchOverPaths(1, 4, begin=0.5, back=0.25, ahead=0.5, rounds=1), 4 * 4 + 4 * 4 + 2, 4 + 4 + 1),
    (BeamSearch(6, width=1, looks=(0.4, 0.7)), 6 * 8, 3 * 6),
    (FeynmanKac(6, strength=2.0, threshold=1.0, looks=(0.4, 0.7)), 6 * 8, 3 * 6),
    (Gradient(4, looks=(0.5, 0.7), length=0.3), 4 * 8, 4),
    (NoiseOptimization(1, iterations=4, steps=2, rate=0.1), 4 * 2 + 8, 4 + 1),
]


@pytest.mark.parametrize(("method", "evaluations", "judgements"), COSTS, ids=lambda value: type(value).__name__)
def test_what_is_rewarded_grows_and_everything_is_counted(pipeline, method, evaluations, judgements):
    """What is finished is better on average than plain pictures are; the same seed gives the same result."""
    calls = []
    handle = pipeline.transformer.register_forward_hook(lambda _, args, output: calls.append(len(output[0])))
    try:
        guided = RewardGuidedPipeline(pipeline, Redness(), method)(PROMPT, **OPTIONS)
    finally:
        handle.remove()
    rewards = [item.log_odds for item in Redness().score(plain(pipeline, 6), PROMPT)]
    assert np.mean(guided.ranking.rewards) > np.mean(rewards) or method == RandomSearch(6)
    assert guided.evaluations == sum(calls) == evaluations * PASSES
    assert guided.judgements == len(guided.trace.nodes) == judgements
    assert guided.trace.best.reward == max(guided.ranking.rewards)
    again = RewardGuidedPipeline(pipeline, Redness(), method)(PROMPT, **OPTIONS)
    assert (pixels(again.images) == pixels(guided.images)).all()
    assert again.trace == guided.trace


def test_drafting_ends_with_the_lot_that_has_one_good_enough(pipeline, redness):
    """And gives what as many drafts made at once would have given."""
    drafts = RewardGuidedPipeline(pipeline, redness, Drafts(8, steps=3, keep=8))(PROMPT, **OPTIONS)
    rewards = [node.reward for node in drafts.trace.nodes if not node.final]
    for lot in (1, 2, 3):
        least = sum(sorted(rewards)[-3:-1]) / 2  # good enough are the two best, however many are painted at a time
        first = next(number for number, reward in enumerate(rewards) if reward >= least)
        made = min(8, (first // lot + 1) * lot)
        enough = 1 / (1 + math.exp(-least))
        guided = RewardGuidedPipeline(pipeline, redness, Drafts(8, 3, keep=2, enough=enough, lot=lot))(
            PROMPT, **OPTIONS
        )
        expected = RewardGuidedPipeline(pipeline, redness, Drafts(made, 3, keep=2))(PROMPT, **OPTIONS)
        assert guided.evaluations == expected.evaluations
        assert guided.ranking.rewards == pytest.approx(expected.ranking.rewards, abs=1e-4)


def test_one_round_of_redrafts_is_drafts(pipeline, redness):
    expected = RewardGuidedPipeline(pipeline, redness, Drafts(5, steps=3, keep=2))(PROMPT, **OPTIONS)
    guided = RewardGuidedPipeline(pipeline, redness, Redrafts(5, rounds=1, steps=3, keep=2))(PROMPT, **OPTIONS)
    assert np.abs(pixels(guided.images).astype(int) - pixels(expected.images)).max() <= 1
    assert guided.evaluations == expected.evaluations


def test_every_other_round_drafts_on_from_the_best_and_finds_better_ones(pipeline, redness):
    method = Redrafts(6, rounds=4, paths=2, back=0.5, steps=4, keep=3, enough=1.0)
    guided = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    rounds = [[node for node in guided.trace.nodes if node.stage == f"round {number}"] for number in (1, 2, 3, 4)]
    assert {node.parent for node in rounds[0] + rounds[2]} == {None}
    for number in (1, 3):
        before = sorted((node for part in rounds[:number] for node in part), key=lambda node: -node.reward)
        assert {node.parent for node in rounds[number]} == {node.number for node in before[:2]}
    means = [np.mean([node.reward for node in part]) for part in rounds]
    assert min(means[1], means[3]) > max(means[0], means[2])
    finished = [guided.trace.nodes[node.parent] for node in guided.trace.nodes if node.final]
    full = sum(8 if node.parent is None else 4 for node in finished)  # half the way is left of what was noised back
    assert guided.evaluations == (2 * 6 * 4 + 2 * 6 * 2 + full) * PASSES
    drafted = [node.reward for node in finished]
    assert np.corrcoef(drafted, [node.reward for node in guided.trace.nodes if node.final])[0, 1] > 0
    again = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    assert again.trace == guided.trace


@pytest.mark.parametrize("back", [0.01, 0.99])
def test_redrafts_go_back_a_step_at_least_and_never_all_the_way(pipeline, redness, back):
    method = Redrafts(2, rounds=2, back=back, steps=3, keep=4, enough=1.0)
    guided = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    drafted, finished = (2 * 3 + 2 * 1, 2 * 8 + 2 * 1) if back < 0.5 else (2 * 3 + 2 * 2, 2 * 8 + 2 * 7)
    assert guided.evaluations == (drafted + finished) * PASSES


def test_redrafts_end_when_the_judge_is_sure(pipeline, redness):
    first = RewardGuidedPipeline(pipeline, redness, Redrafts(4, rounds=1, steps=3))(PROMPT, **OPTIONS)
    best = max(node.reward for node in first.trace.nodes if not node.final)
    for slack, least in ((-1e-3, 1), (1e-3, 2)):
        enough = 1 / (1 + math.exp(-best - slack))
        guided = RewardGuidedPipeline(pipeline, redness, Redrafts(4, rounds=2, steps=3, enough=enough))(
            PROMPT, **OPTIONS
        )
        assert len({node.stage for node in guided.trace.nodes if not node.final}) == least


def test_what_is_not_finished_is_the_worst(pipeline, redness):
    guided = RewardGuidedPipeline(pipeline, redness, RandomSearch(6, keep=2, look=0.9))(PROMPT, **OPTIONS)
    everything = RewardGuidedPipeline(pipeline, redness, RandomSearch(6))(PROMPT, **OPTIONS)
    apart = np.abs(pixels(guided.ranked).astype(int) - pixels(everything.ranked[:2]))
    assert apart.max() <= 1  # seen so late, it is all but painted; rounding depends on the size of a batch


def test_a_run_in_parts_is_the_whole_run(pipeline, redness):
    from diffusers_ext.sampling import Painter

    painter = Painter(pipeline, PROMPT, {**OPTIONS, "output_type": "pil"})
    noise = painter.noise([0, 1])
    assert painter.evaluations == 0
    half = painter.paint([0, 1], noise, end=3)
    rest = painter.paint([0, 1], half.latents, begin=3)
    assert (pixels(rest.images) == pixels(plain(pipeline, 2))).all()
    assert painter.evaluations == 2 * 8 * PASSES
    pictures = pixels(painter.decode(half.clean)).astype(float)
    assert np.corrcoef(pictures.ravel(), pixels(rest.images).ravel())[0, 1] > 0.5
    assert "prepare_latents" not in vars(pipeline)
    assert "set_timesteps" not in vars(pipeline.scheduler)


def test_batches_change_nothing(pipeline, redness):
    small = RewardGuidedPipeline(pipeline, redness, Drafts(5, steps=3), batch_size=2)(PROMPT, **OPTIONS)
    large = RewardGuidedPipeline(pipeline, redness, Drafts(5, steps=3))(PROMPT, **OPTIONS)
    assert np.abs(pixels(small.images).astype(int) - pixels(large.images)).max() <= 1
    assert small.evaluations == large.evaluations


@pytest.mark.slow
def test_a_compiled_network_is_counted_and_stays_whole(pipeline, redness):
    method = RandomSearch(2, keep=1)
    eager = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    pipeline.transformer.compile(backend="eager", fullgraph=True)
    try:
        compiled = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    finally:
        pipeline.transformer._compiled_call_impl = None
    assert np.abs(pixels(compiled.images).astype(int) - pixels(eager.images)).max() <= 1
    assert compiled.evaluations == eager.evaluations


@pytest.mark.parametrize("churn", [0.0, 0.3, 1.0])
def test_a_copy_is_fresh_only_as_far_as_it_is_churned(pipeline, redness, churn):
    method = BeamSearch(4, width=1, looks=(0.4,), churn=churn)
    guided = RewardGuidedPipeline(pipeline, redness, method)(PROMPT, **OPTIONS)
    spread = pixels(guided.images).std(0).mean()
    assert (spread == 0.0) == (churn == 0.0)


def test_a_trace_is_a_tree_that_can_be_kept_and_drawn(pipeline, redness, tmp_path):
    guided = RewardGuidedPipeline(pipeline, redness, BeamSearch(4, width=1, looks=(0.4, 0.7)))(PROMPT, **OPTIONS)
    path = guided.trace.path(guided.trace.best.number)
    assert [node.stage for node in path] == ["step 3", "step 6", "picture"]
    first, second = guided.trace.nodes[:4], guided.trace.nodes[4:8]
    assert {node.parent for node in second} == {max(first, key=lambda node: node.reward).number}
    assert [node.evaluations for node in path] == [4 * 3 * PASSES, 4 * 6 * PASSES, 4 * 8 * PASSES]
    guided.trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == guided.trace
    guided.trace.plot(tmp_path / "trace.png")
    with Image.open(tmp_path / "trace.png") as plot:
        colours = {colour for _, colour in plot.convert("RGB").getcolors(1 << 20)}
        assert {(214, 39, 40), (31, 119, 180), (184, 184, 184)} <= colours
    (tmp_path / "trace.json").write_text("[]")
    with pytest.raises(SamplingError, match="not a trace"):
        Trace.load(tmp_path / "trace.json")


class Failing(Redness):
    """Gives no number, or raises, from some judgement on."""

    def __init__(self, after: int, raises: bool) -> None:
        super().__init__()
        self.after, self.raises = after, raises

    def score(self, images, prompt, **options):
        found = super().score(images, prompt)
        if self.seen <= self.after:
            return found
        if self.raises:
            raise RuntimeError("out of order")
        return [type(item)(float("nan"), "alignment", ()) for item in found]


METHODS = [
    RandomSearch(4),
    RandomSearch(4, keep=2),
    Drafts(4, steps=3),
    Redrafts(4, rounds=2, steps=3),
    ZeroOrder(2, 2, 1),
    SearchOverPaths(1, 2, rounds=1),
    BeamSearch(4),
    FeynmanKac(4),
]


@pytest.mark.parametrize(("after", "raises"), [(0, True), (4, False)])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_judge_that_fails_stops_or_is_done_without(pipeline, method, after, raises):
    options = {**OPTIONS, "num_inference_steps": 4}
    if method == METHODS[0] and after == 4:
        return  # it is asked once
    with pytest.raises(RuntimeError if raises else SamplingError, match="out of order" if raises else "finite"):
        RewardGuidedPipeline(pipeline, Failing(after, raises), method)(PROMPT, **options)
    guided = RewardGuidedPipeline(pipeline, Failing(after, raises), method, on_failure="finish")
    with pytest.warns(UserWarning, match="going on without"):
        found = guided(PROMPT, **options)
    assert len(found.images) == len(found.ranking.order) > 0
    assert np.isnan(found.ranking.rewards).all()
    if type(method) in (BeamSearch, FeynmanKac) and after == 0:
        unguided = plain(pipeline, 4, num_inference_steps=4)
        assert (pixels(found.images) == pixels(unguided)).all()


def test_gradients_that_fail_are_done_without(pipeline):
    class Broken(Redness):
        def log_odds(self, images, *_, **__):
            return super().log_odds(images, PROMPT) * float("nan")

    for method, count in ((Gradient(2), 2), (NoiseOptimization(1, iterations=3, steps=2), 1)):
        with pytest.raises(SamplingError, match="finite"):
            RewardGuidedPipeline(pipeline, Broken(), method)(PROMPT, **OPTIONS)
        with pytest.warns(UserWarning, match="going on without"):
            found = RewardGuidedPipeline(pipeline, Broken(), method, on_failure="finish")(PROMPT, **OPTIONS)
        assert (pixels(found.images) == pixels(plain(pipeline, count))).all()


def test_a_search_can_be_stopped(pipeline, redness):
    asked = []

    def cancel():
        asked.append(None)
        return len(asked) > 3

    with pytest.raises(Cancelled, match="network evaluations"):
        RewardGuidedPipeline(pipeline, redness)(PROMPT, cancel=cancel, **OPTIONS)
    assert len(asked) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomSearch(0),
        lambda: RandomSearch(4, look=1.0),
        lambda: Drafts(begin=1.0),
        lambda: Drafts(enough=0.9),
        lambda: Drafts(enough=0.0, lot=4),
        lambda: Drafts(lot=0),
        lambda: Drafts(lot=2.5),
        lambda: Drafts(enough="sure", lot=4),
        lambda: Redrafts(rounds=0),
        lambda: Redrafts(back=1.0),
        lambda: Redrafts(back="far"),
        lambda: Redrafts(enough=0.0),
        lambda: ZeroOrder(radius=0.0),
        lambda: SearchOverPaths(back=0.3, ahead=0.2),
        lambda: BeamSearch(width=0),
        lambda: BeamSearch(looks=(1.0,)),
        lambda: FeynmanKac(churn=2.0),
        lambda: FeynmanKac(potential="hope"),
        lambda: Gradient(climbs=0),
        lambda: NoiseOptimization(rate=0.0),
        lambda: RewardGuidedPipeline(None, None, on_failure="hope"),
        lambda: RewardGuidedPipeline(None, None, batch_size=0),
    ],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(SamplingError):
        wrong()


def test_bad_calls_are_named(pipeline, redness):
    guided = RewardGuidedPipeline(pipeline, redness, BeamSearch(2))
    with pytest.raises(PromptTextError):
        guided(" ")
    with pytest.raises(SamplingError, match="three steps"):
        guided(PROMPT, **{**OPTIONS, "num_inference_steps": 2})
    with pytest.raises(SamplingError, match="set by the search"):
        guided(PROMPT, num_images_per_prompt=2)


def test_only_the_search_has_a_progress_bar_and_the_pipeline_keeps_its_own_setting(
    pipeline, redness, capfd, monkeypatch
):
    mine = {"disable": False, "desc": "mine"}
    monkeypatch.setattr(pipeline, "_progress_bar_config", mine, raising=False)
    RewardGuidedPipeline(pipeline, redness, Drafts(4, steps=3))(PROMPT, **OPTIONS)
    assert "mine" not in capfd.readouterr().err
    assert pipeline._progress_bar_config is mine
    monkeypatch.delattr(pipeline, "_progress_bar_config")
    RewardGuidedPipeline(pipeline, redness, Drafts(4, steps=3))(PROMPT, **OPTIONS)
    assert "it/s" not in capfd.readouterr().err
    assert not hasattr(pipeline, "_progress_bar_config")
