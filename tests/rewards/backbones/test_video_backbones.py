from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.rewards.errors import ImageError, ModelError
from diffusers_ext.rewards.instructions import PRESETS
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.prompts import PAIRWISE_QUESTION, POINTWISE_QUESTION
from diffusers_ext.rewards.videos import Clip
from tests.rewards.backbones.differences import check_gradient

PROMPT = "a red star moving left"
RATE = 4.0


def clips(count=3, frames=5):
    noise = np.random.default_rng(2).integers(0, 256, (count, frames, 56, 56, 3)).astype(np.uint8)
    return [Clip(tuple(Image.fromarray(frame) for frame in shades), RATE) for shades in noise]


def values(judgements):
    return [judgement.log_odds for judgement in judgements]


class Native:
    """transformers' own forward pass on a video, its inputs made by hand as the model's video processor would."""

    def __init__(self, judge):
        self.judge = judge
        self.kind = judge.model.config.model_type
        self.network = copy.deepcopy(judge.model).double()
        self.tokenizer = judge.tokenizer

    def log_odds(self, shown, first=None):
        """Of one clip, or of a reference and a candidate."""
        by = PRESETS["video-overall"]
        asked = POINTWISE_QUESTION if len(shown) == 1 else PAIRWISE_QUESTION
        names = ["Candidate:"] if len(shown) == 1 else ["Reference:", "Candidate:"]
        text = f"<|im_start|>user\n{by.text}\nPrompt: {PROMPT}\n{asked} Answer yes or no.\n"
        if first is not None:
            text += f"First frame:{self.still()}\n"
        text += "\n".join(f"{name}{self.place(clip)}" for name, clip in zip(names, shown, strict=True))
        text += f"\nPrompt: {PROMPT}<|im_end|>\n<|im_start|>assistant\n"
        tokens = torch.tensor([self.tokenizer(text).input_ids])
        with torch.inference_mode():
            logits = self.network(input_ids=tokens, **self.inputs(tokens, shown, first)).logits[0, -1].log_softmax(-1)
        answers = self.judge.backbone.answers
        yes, no = (torch.logsumexp(logits[list(group)], 0) for group in (answers.yes, answers.no))
        return float(yes - no)

    def still(self):
        return "<img>" + 4 * "<IMG_CONTEXT>" + "</img>" if self.kind == "internvl" else self.vision("<|image_pad|>", 4)

    def vision(self, token, count):
        return f"<|vision_start|>{token * count}<|vision_end|>"

    def place(self, clip):
        frames = len(clip.frames)
        if self.kind == "internvl":
            return "\n".join(f"Frame{index + 1}: {self.still()}" for index in range(frames))
        if self.kind == "qwen2_5_vl":
            return self.vision("<|video_pad|>", 4 * -(-frames // 2))
        last = frames - 1
        middles = [(min(start, last) + min(start + 1, last)) / 2 / RATE for start in range(0, frames, 2)]
        return "".join(f"<{middle:.1f} seconds>{self.vision('<|video_pad|>', 4)}" for middle in middles)

    def inputs(self, tokens, shown, first):
        own = self.judge.processor.image_processor
        mean, std = np.array(own.image_mean), np.array(own.image_std)
        if self.kind == "internvl":
            frames = [frame for clip in shown for frame in clip.frames]
            frames = ([first] if first is not None else []) + frames
            made = own(frames, crop_to_patches=False, return_tensors="pt")["pixel_values"]
            return {"pixel_values": made.double()}
        patches, grid = [], []
        for clip in shown:
            frames = [(np.asarray(frame, dtype=float) / 255 - mean) / std for frame in clip.frames]
            frames += frames[-1:] * (len(frames) % 2)
            pairs = np.stack(frames).reshape(-1, 2, *frames[0].shape)
            side = frames[0].shape[0] // own.patch_size
            order = [
                (pair, 2 * row + i, 2 * column + j)
                for pair in range(len(pairs))
                for row in range(side // 2)
                for column in range(side // 2)
                for i in range(2)
                for j in range(2)
            ]
            p = own.patch_size
            patches += [
                pairs[pair][:, row * p : (row + 1) * p, column * p : (column + 1) * p].transpose(3, 0, 1, 2).reshape(-1)
                for pair, row, column in order
            ]
            grid.append([len(pairs), side, side])
        kinds = torch.zeros_like(tokens)
        kinds[tokens == self.judge.model.config.image_token_id] = 1
        kinds[tokens == self.judge.model.config.video_token_id] = 2
        inputs = {
            "pixel_values_videos": torch.from_numpy(np.stack(patches)),
            "video_grid_thw": torch.tensor(grid),
            "mm_token_type_ids": kinds,
        }
        if self.kind == "qwen2_5_vl":
            inputs["second_per_grid_ts"] = torch.tensor([2 / RATE] * len(shown))
        if first is not None:
            made = own([first], return_tensors="pt")
            inputs |= {"pixel_values": made["pixel_values"].double(), "image_grid_thw": made["image_grid_thw"]}
        return inputs


def test_a_video_is_scored_as_transformers_would(judge):
    native = Native(judge)
    shown = clips()
    expected = [native.log_odds([clip]) for clip in shown]
    assert values(judge.score_video(shown, PROMPT)) == pytest.approx(expected, abs=2e-4)
    assert np.ptp(expected) > 1e-3


def test_videos_are_compared_as_transformers_would(judge):
    native = Native(judge)
    first, *others = clips()
    there = [native.log_odds([first, other]) for other in others]
    back = [native.log_odds([other, first]) for other in others]
    assert values(judge.compare_videos(others, first, PROMPT, debias=False)) == pytest.approx(there, abs=2e-4)
    half = (np.array(there) - np.array(back)) / 2
    assert values(judge.compare_videos(others, first, PROMPT)) == pytest.approx(half, abs=2e-4)


def test_the_first_frame_comes_before_the_video(judge):
    shown = clips()
    first = shown[1].frames[0]
    expected = [Native(judge).log_odds([clip], first) for clip in shown[:2]]
    assert values(judge.score_video(shown[:2], PROMPT, first_frame=first)) == pytest.approx(expected, abs=2e-4)


def test_long_videos_are_sampled(judge):
    (long,) = clips(1, frames=24)
    expected = values(judge.score_video(long.sampled(6), PROMPT, frames=1000))
    assert values(judge.score_video(long, PROMPT, frames=6)) == pytest.approx(expected, abs=1e-5)
    assert values(judge.score_video(long, PROMPT, frames=1000, rate=1.0)) == pytest.approx(expected, abs=1e-5)


def test_the_wrong_number_of_first_frames_is_refused(judge):
    shown = clips()
    with pytest.raises(ImageError, match="2 first frames for 3"):
        judge.score_video(shown, PROMPT, first_frame=[shown[0].frames[0]] * 2)


def test_the_reranker_takes_videos_but_no_first_frame(reranker):
    (clip,) = clips(1)
    assert np.isfinite(values(reranker.score_video(clip, PROMPT))).all()
    with pytest.raises(ModelError, match="first frame"):
        reranker.score_video(clip, PROMPT, first_frame=clip.frames[0])


def tensor_of(clip):
    return torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in clip.frames]) / 255


def test_log_odds_with_a_gradient_are_those_that_score_video_gives(judge):
    one, other, long = *clips(2), *clips(1, frames=24)
    shown = torch.stack([tensor_of(one), tensor_of(other)])
    firsts = [other.frames[0], one.frames[2]]
    with torch.no_grad():
        found = [
            *judge.video_log_odds(shown, PROMPT),
            *judge.video_log_odds(shown, [PROMPT, "two blue stars"], "i2v-overall", firsts),
            *judge.video_log_odds(shown, PROMPT, first_frame=firsts[0]),
            *judge.video_log_odds(tensor_of(long), PROMPT, frames=7),
        ]
    expected = [
        *judge.score_video(shown, PROMPT),
        *judge.score_video(shown, [PROMPT, "two blue stars"], "i2v-overall", firsts),
        *judge.score_video(shown, PROMPT, first_frame=firsts[0]),
        *judge.score_video(tensor_of(long), PROMPT, frames=7),
    ]
    assert [float(value) for value in found] == pytest.approx(values(expected), abs=1e-4)


def test_the_gradient_of_a_video_is_that_of_finite_differences(judge):
    exact = RewardModel(copy.deepcopy(judge.model).double(), judge.processor, judge.name, judge.config)
    (clip,) = clips(1)
    video = (0.1 + 0.8 * tensor_of(clip).double()).requires_grad_()  # steps stay within [0, 1]

    def value(pixels):
        return exact.video_log_odds(pixels, PROMPT, first_frame=clip.frames[-1])[0]

    assert (check_gradient(value, video).flatten(1).abs().amax(1) > 0).all()  # every frame is seen


def test_frames_that_are_not_shown_get_no_gradient(judge):
    (long,) = clips(1, frames=9)
    video = tensor_of(long).requires_grad_()
    judge.video_log_odds(video, PROMPT, frames=3).sum().backward()
    assert video.grad.flatten(1).abs().amax(1).nonzero().flatten().tolist() == [1, 4, 7]


def test_what_is_no_batch_of_videos_is_refused(judge):
    shown = torch.rand(2, 3, 3, 56, 56)
    with pytest.raises(ImageError, match=r"\[2, 3\]"):
        judge.video_log_odds(shown[:, :, 0, 0, 0], PROMPT)
    with pytest.raises(ImageError, match="from"):
        judge.video_log_odds(2 * shown, PROMPT)
    with pytest.raises(ImageError, match="3 first frames for 2"):
        judge.video_log_odds(shown, PROMPT, first_frame=torch.rand(3, 3, 56, 56))


def test_the_reranker_gives_the_gradient_of_a_video(reranker):
    (clip,) = clips(1)
    video = tensor_of(clip).requires_grad_()
    found = reranker.video_log_odds(video, PROMPT)
    assert found.tolist() == pytest.approx(values(reranker.score_video(video.detach(), PROMPT)), abs=1e-4)
    found.sum().backward()
    assert video.grad.abs().max() > 0
