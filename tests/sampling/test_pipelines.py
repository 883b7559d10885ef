from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, LTXImageToVideoPipeline, PNDMScheduler
from PIL import Image

from diffusers_ext.rewards.videos import Clip
from diffusers_ext.sampling import (
    BeamSearch,
    Drafts,
    FeynmanKac,
    Gradient,
    NoiseOptimization,
    Painter,
    RandomSearch,
    Redrafts,
    RewardGuidedPipeline,
    SamplingError,
)
from diffusers_ext.sampling.decoding import Canvas, decode
from tests.sampling.redness import Redness, pixels
from tests.sampling.tiny import FRAMES, PIPELINES, built

PROMPT = "a photo of a red star"


@pytest.fixture(scope="module", params=list(PIPELINES))
def case(request):
    return built(request.param)


@pytest.fixture(scope="module")
def stable_diffusion():
    return built("Stable Diffusion 1.5")


def plain(pipeline, options, output_type: str):
    options = dict(options)
    if type(pipeline) is LTXImageToVideoPipeline:
        # It takes a picture for each prompt, and its decoding takes no list of generators.
        each = [
            {**options, "image": options["image"], "generator": torch.Generator().manual_seed(seed)} for seed in (0, 1)
        ]
        found = [pipeline(prompt=PROMPT, output_type=output_type, **one).frames for one in each]
        return torch.cat(found) if output_type == "latent" else [video for one in found for video in one]
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    output = pipeline(prompt=[PROMPT] * 2, generator=generators, output_type=output_type, **options)
    return output.images if hasattr(output, "images") else output.frames


def same(found: np.ndarray, expected: np.ndarray, pipeline) -> bool:
    """Bit for bit; but what was made one by one is rounded otherwise than what was made in a batch."""
    alone = type(pipeline) is LTXImageToVideoPipeline
    return bool(np.abs(found.astype(int) - expected).max() <= alone)


def test_latents_are_decoded_as_the_pipeline_does(case):
    """Its own output with "latent", decoded here, is its own output with "pil"; and a way in parts is the whole way."""
    pipeline, options = case
    expected = pixels(plain(pipeline, options, "pil"))
    assert expected.std() > 1
    painter = Painter(pipeline, PROMPT, {**options, "output_type": "pil"})
    noise = painter.noise([0, 1])
    assert painter.evaluations == 0
    found = pixels(painter.decode(plain(pipeline, options, "latent")))
    assert found.shape == expected.shape
    assert same(found, expected, pipeline)
    half = painter.paint([0, 1], noise, end=3)
    assert half.clean.shape == half.latents.shape == noise.shape
    rest = painter.paint([0, 1], half.latents, begin=3)
    assert np.abs(pixels(rest.images).astype(int) - expected).max() <= 1
    assert painter.evaluations in (2 * 5, 2 * 2 * 5)
    assert np.isfinite(pixels(painter.decode(half.clean))).all()


def test_every_family_is_steered(case):
    """Nothing changes with a strength of zero; a beam leaves copies of the best; drafts are worked out."""
    pipeline, options = case
    unguided = RewardGuidedPipeline(pipeline, Redness(), FeynmanKac(2, strength=0.0, looks=(0.5,)))(PROMPT, **options)
    assert same(pixels(unguided.images), pixels(plain(pipeline, options, "pil")), pipeline)
    beam = RewardGuidedPipeline(pipeline, Redness(), BeamSearch(2, 1, looks=(0.5,), churn=0.0))(PROMPT, **options)
    assert (pixels(beam.images[:1]) == pixels(beam.images[1:])).all()
    drafts = RewardGuidedPipeline(pipeline, Redness(), Drafts(2, steps=2, keep=1, begin=0.6))(PROMPT, **options)
    assert len(drafts.images) == 1
    shape = pixels(drafts.images).shape
    assert len(shape) == 5 if "num_frames" in options else len(shape) == 4
    assert "num_frames" not in options or shape[1] == FRAMES
    per_step = unguided.evaluations / (2 * 5)
    assert drafts.evaluations == (2 * 2 + 2) * per_step
    method = Redrafts(2, rounds=2, back=0.4, steps=3, keep=1, enough=1.0)
    redrafts = RewardGuidedPipeline(pipeline, Redness(), method)(PROMPT, **options)
    best = next(redrafts.trace.nodes[node.parent] for node in redrafts.trace.nodes if node.final)
    assert redrafts.evaluations == (2 * 3 + 2 * 1 + (5 if best.parent is None else 2)) * per_step


@pytest.mark.parametrize(
    "method",
    [
        Gradient(2, looks=(0.5, 0.7), length=0.3),
        # Small networks of random weights have small gradients.
        pytest.param(NoiseOptimization(1, 4, 2, 0.2, regularization=0, clip=1e-4), marks=pytest.mark.slow),
    ],
)
def test_gradients_reach_the_latents_of_every_family(case, method):
    pipeline, options = case
    guided, judge = RewardGuidedPipeline(pipeline, Redness(), method), Redness()
    count = len(guided(PROMPT, **options).images)
    images = plain(pipeline, options, "pil")[:count]
    moving = "num_frames" in options
    judged = (
        judge.score_video([Clip(tuple(video)) for video in images], PROMPT) if moving else judge.score(images, PROMPT)
    )
    rewards = [item.log_odds for item in judged]
    assert np.mean(guided(PROMPT, **options).ranking.rewards) > np.mean(rewards)


def test_the_frame_that_a_video_begins_with_is_left_alone():
    """A copy has the given frame of its original, while all else of it is noised anew."""
    pipeline, options = built("LTX-Video, image to video")

    class Watching(Redness):
        def score_video(self, videos, prompt, first_frame=None, **_):
            assert isinstance(first_frame, Image.Image)
            return super().score_video(videos, prompt)

    seen = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["hidden_states"][-3:].clone()), with_kwargs=True
    )
    RewardGuidedPipeline(pipeline, Watching(), BeamSearch(3, 1, looks=(0.5,)))(PROMPT, **options)
    hook.remove()
    frame = (options["height"] // 4) * (options["width"] // 4)
    start, end = seen[0], seen[-1]
    (original,) = {number for number in range(3) if (end[0, :frame] == start[number, :frame]).all()}
    assert (end[:, :frame] == start[original, :frame]).all()
    assert not (end[0, frame:] == end[1, frame:]).any()


def test_a_frame_that_is_put_in_its_place_at_the_end_is_there_when_it_is_looked_at_half_way():
    pipeline, options = built("Wan 2.2, image to video")
    seen = []

    class Watching(Redness):
        def score_video(self, videos, prompt, **given):
            seen.extend(np.asarray(video.frames[0], dtype=float) for video in videos)
            return super().score_video(videos, prompt)

        def video_log_odds(self, videos, prompt, **given):
            seen.extend(255 * video[0].movedim(0, 2).detach().numpy() for video in videos)
            return super().video_log_odds(videos, prompt)

    expected = np.asarray(plain(pipeline, options, "pil")[0][0], dtype=float)
    for method in (BeamSearch(2, 1, looks=(0.2, 0.6)), Gradient(2, looks=(0.5,), length=0.3)):
        RewardGuidedPipeline(pipeline, Watching(), method)(PROMPT, **options)
    assert len(seen) > 6
    assert max(np.abs(shown - expected).max() for shown in seen) <= 1.0  # frames come as 8 bits


@pytest.mark.parametrize(
    ("family", "given", "expected"),
    [
        ("Wan", {}, 8.0),
        ("Wan", {"fps": 16}, 16.0),
        ("LTX-Video", {}, 25.0),  # which its pipeline takes
        ("LTX-Video", {"frame_rate": 30}, 30.0),
        ("LTX-Video", {"frame_rate": 30, "fps": 12.5}, 12.5),
    ],
)
def test_a_judge_is_told_how_fast_frames_go_by(family, given, expected):
    pipeline, options = built(family)
    told = []

    class Watching(Redness):
        def score_video(self, videos, prompt, **_):
            told.extend(video.rate for video in videos)
            return super().score_video(videos, prompt)

        def video_log_odds(self, videos, prompt, *, fps, **_):
            told.append(fps)
            return super().video_log_odds(videos, prompt)

    RewardGuidedPipeline(pipeline, Watching(), Gradient(2, looks=(0.5,), length=0.3))(PROMPT, **options, **given)
    assert told == [expected] * 3  # one gradient for both, and a verdict on each


def test_no_video_stands_still():
    pipeline, options = built("Wan")
    with pytest.raises(SamplingError, match="fps must be above zero, not 0"):
        RewardGuidedPipeline(pipeline, Redness())(PROMPT, fps=0, **options)


def test_a_pipeline_that_crops_is_cropped():
    pipeline, _ = built("PixArt-Sigma")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    (whole,) = decode(pipeline, latents, Canvas(32, 32))
    (cropped,) = decode(pipeline, latents, Canvas(32, 32, crop=(24, 32)))
    assert whole.size == (32, 32)
    assert cropped.size == (32, 24)
    assert np.abs(pixels([cropped])[0].astype(int) - pixels([whole])[0][4:28]).max() <= 1


def test_schedulers_that_cannot_be_looked_at_are_named(stable_diffusion):
    pipeline, options = stable_diffusion
    before = pipeline.scheduler
    try:
        pipeline.scheduler = EulerAncestralDiscreteScheduler()
        with pytest.raises(SamplingError, match="fresh noise at every step"):
            RewardGuidedPipeline(pipeline, Redness(), BeamSearch(2))(PROMPT, **options)
        assert len(RewardGuidedPipeline(pipeline, Redness(), RandomSearch(2))(PROMPT, **options).images) == 2
        pipeline.scheduler = PNDMScheduler(skip_prk_steps=True)
        with pytest.raises(SamplingError, match="half-way"):
            RewardGuidedPipeline(pipeline, Redness(), RandomSearch(2, keep=1, look=0.7))(PROMPT, **options)
    finally:
        pipeline.scheduler = before


def test_unknown_pipelines_get_best_of_n_and_a_clear_word():
    def paint(prompt, generator, **options):
        shades = [int(torch.randint(0, 256, (1,), generator=item)) for item in generator]
        return SimpleNamespace(images=[Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in shades])

    guided = RewardGuidedPipeline(paint, Redness(), RandomSearch(5))
    result = guided(PROMPT)
    assert result.ranking.best == int(np.argmax([np.asarray(image)[0, 0, 0] for image in result.images]))
    assert result.evaluations == 0
    for method in (BeamSearch(2), RandomSearch(2, keep=1), NoiseOptimization(1)):
        with pytest.raises(SamplingError, match="works with any pipeline"):
            RewardGuidedPipeline(paint, Redness(), method)(PROMPT)


def test_latents_that_are_no_numbers_are_named(stable_diffusion):
    pipeline, options = stable_diffusion
    handle = pipeline.unet.register_forward_hook(lambda _, args, output: (output[0] * float("nan"),))
    try:
        with pytest.raises(SamplingError, match="no numbers"):
            RewardGuidedPipeline(pipeline, Redness(), BeamSearch(2))(PROMPT, **options)
    finally:
        handle.remove()
