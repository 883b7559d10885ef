from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from diffusers_ext.nano.moving.evaluation import accuracy, frames_of, judge_pairs, video_figures
from diffusers_ext.nano.moving.oracle import judge
from diffusers_ext.nano.moving.preferences import (
    VIDEO_INSTRUCTIONS,
    VideoMarks,
    caption,
    good,
    needs_first_frame,
    preferred,
    sample_group,
    sample_pairs,
    statements,
)
from diffusers_ext.nano.moving.scenes import FRAMES, parse_prompt
from diffusers_ext.nano.moving.train_video_reward import VideoRecipe, lay_out, train_video_reward
from diffusers_ext.nano.moving.vocabulary import WORDS, teach_words
from diffusers_ext.nano.moving.writing import Asked, VideoWriter
from diffusers_ext.nano.packing import hidden_states, pack
from diffusers_ext.nano.reward_model import TOKENS_PER_IMAGE, save_processor
from diffusers_ext.nano.train_reward import pixel_values
from diffusers_ext.rewards.judgement import Judgement
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.prompts import numbered_frames
from diffusers_ext.rewards.videos import Clip, spread
from diffusers_ext.states import read_state

RECIPE = VideoRecipe(steps=1, speaking_steps=1, groups=1, picture_groups=1, seed=3)


@pytest.fixture(scope="module")
def taught_folder(tmp_path_factory, nano_folder):
    """The untrained reward model with the words of videos."""
    folder = tmp_path_factory.mktemp("taught")
    tokenizer = AutoTokenizer.from_pretrained(nano_folder)
    model = InternVLForConditionalGeneration.from_pretrained(nano_folder, dtype=torch.float32)
    teach_words(model, tokenizer)
    model.save_pretrained(folder)
    save_processor(folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def taught(taught_folder):
    return RewardModel.from_pretrained(taught_folder, device="cpu")


@pytest.mark.parametrize("total", [1, 3, 8, 9])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_frames_that_are_shown_are_those_that_a_judge_samples(total, count):
    frames = tuple(Image.new("RGB", (8, 8), (index, 0, 0)) for index in range(total))
    sampled = [frame.getpixel((0, 0))[0] for frame in Clip(frames).sampled(count).frames]
    assert list(spread(total, count)) == sampled


@pytest.mark.parametrize("shown", [1, 4, 8])
def test_videos_stand_in_a_question_as_an_internvl_takes_them(taught, shown):
    assert numbered_frames(shown) == taught.backbone.clip(shown, 8.0)[0]


@pytest.mark.parametrize("shown", [2, 4])
@pytest.mark.parametrize("instruction", VIDEO_INSTRUCTIONS)
@pytest.mark.parametrize("pairwise", [True, False])
def test_packed_questions_are_those_of_the_judge(taught, instruction, pairwise, shown):
    """What training computes for a row of packed branches is what the finished judge gives for each by itself."""
    group = sample_group(np.random.default_rng(4))
    writer = VideoWriter(taught.tokenizer, shown)
    pictures, (placed,) = lay_out([group], shown, 0)
    first = placed.first_frame if needs_first_frame(instruction) else None
    asked = Asked(instruction, group.spec, first, placed.videos[0] if pairwise else None)
    row = writer.judgement_row(asked, [(video, True) for video in placed.videos[1:]])
    packed = pack([row], writer.words.frame, TOKENS_PER_IMAGE, taught.tokenizer.pad_token_id)
    with torch.inference_mode():
        features = taught.model.get_image_features(pixel_values(pictures), return_dict=True).pooler_output
        hidden = hidden_states(taught.model, packed, features)[packed.targets >= 0]
        logits = taught.model.lm_head(hidden)
    yes, no = (list(ids) for ids in (taught.backbone.answers.yes, taught.backbone.answers.no))
    trained = logits[:, yes].logsumexp(1) - logits[:, no].logsumexp(1)
    given = Image.fromarray(group.first_frame.pixels) if first is not None else None
    videos = [frames_of(video) for video in group.videos]
    options = {"instruction": instruction, "first_frame": given, "frames": shown}
    if pairwise:
        found = taught.compare_videos(videos[1:], [videos[0]], group.spec.text, debias=False, **options)
    else:
        found = taught.score_video(videos[1:], group.spec.text, **options)
    torch.testing.assert_close(trained, torch.tensor([j.log_odds for j in found]), rtol=1e-3, atol=1e-3)
    assert trained.std() > 1e-3


def test_new_words_are_one_token_each_and_leave_old_texts_as_they_were(taught, nano_tokenizer):
    tokenizer = taught.tokenizer
    for word in WORDS:
        assert len(tokenizer(word).input_ids) == 1
    assert len(tokenizer) == taught.model.get_input_embeddings().weight.shape[0]
    rng = np.random.default_rng(5)
    for text in ("a photo of a red star left of a blue circle", "Candidate: red star top; sharp, clean, vivid, whole."):
        assert tokenizer(text).input_ids == nano_tokenizer(text).input_ids
    for _ in range(5):
        group = sample_group(rng)
        texts = [group.spec.text, *(caption(video) for video in group.videos)]
        texts += [text for text, _ in statements(rng, group.videos[0], 10)]
        for text in texts:
            ids = tokenizer(f" {text}").input_ids
            assert tokenizer.decode(ids) == f" {text}"
            assert len(ids) == len(text.split()) + sum(map(text.count, ",;."))


def test_new_words_begin_as_the_mean_of_their_pieces(taught, nano_folder, nano_tokenizer):
    before = InternVLForConditionalGeneration.from_pretrained(nano_folder, dtype=torch.float32)
    old, new = (model.get_input_embeddings().weight for model in (before, taught.model))
    assert torch.equal(new[: len(old)], old)
    word = " moving"
    pieces = nano_tokenizer(word).input_ids
    assert len(pieces) > 1
    torch.testing.assert_close(new[taught.tokenizer.convert_tokens_to_ids(word)], old[pieces].mean(0))


def test_words_that_are_known_are_not_taught_again(taught_folder):
    tokenizer = AutoTokenizer.from_pretrained(taught_folder)
    model = InternVLForConditionalGeneration.from_pretrained(taught_folder, dtype=torch.float32)
    size = len(tokenizer)
    teach_words(model, tokenizer)
    assert len(tokenizer) == size == model.config.text_config.vocab_size


def test_pictures_are_laid_out_where_they_are_said_to_be():
    groups = [sample_group(np.random.default_rng(seed)) for seed in (6, 7)]
    pictures, placed = lay_out(groups, 4, 6)
    flat = [None] * 6 + [picture for group in pictures for picture in group.pictures]
    assert len(flat) == 6 + 2 * (1 + 6 * 4)
    for item in placed:
        assert flat[item.first_frame] is item.group.first_frame
        for video, indices in zip(item.group.videos, item.videos, strict=True):
            for frame, index in zip(spread(FRAMES, 4), indices, strict=True):
                assert np.array_equal(flat[index].pixels, video.frames[frame])
                assert flat[index].objects == tuple(track.sightings[frame] for track in video.tracks)


def test_a_short_run_writes_a_judge_of_videos_and_is_resumed_exactly(tmp_path, nano_folder):
    """One step and then one more, against two at once; so early the schedule is the same for both."""
    recipe = replace(RECIPE, start_from=str(nano_folder))
    train_video_reward(tmp_path / "stopped", recipe)
    (tmp_path / "stopped" / "training.partial").write_bytes(b"half a file")
    resumed = train_video_reward(tmp_path / "stopped", replace(recipe, steps=2)).state_dict()
    whole = train_video_reward(tmp_path / "whole", replace(recipe, steps=2)).state_dict()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert read_state(tmp_path / "whole" / "training.pt")["step"] == 2
    trained = RewardModel.from_pretrained(tmp_path / "whole", device="cpu")
    (pair,) = itertools.islice(sample_pairs(np.random.default_rng(8)), 1)
    (found,) = judge_pairs(trained, [pair])
    assert np.isfinite(found.log_odds) and found.debiased
    frames = frames_of(pair.candidate)
    (even,) = trained.compare_videos([frames], [frames], pair.spec.text, frames=4)
    assert even.reward == 0.5


class Oracle:
    """A judge that looks at all frames with the oracle; `sign` -1 makes it always wrong."""

    def __init__(self, sign: int, seen: dict[tuple[bytes, ...], VideoMarks]) -> None:
        self.sign = sign
        self.seen = seen

    def _marks(self, video, prompt, first_frame) -> VideoMarks:
        pixels = np.stack([np.asarray(frame) for frame in video])
        first = np.asarray(first_frame) if first_frame is not None else pixels[0]
        key = pixels.tobytes(), prompt.encode(), first.tobytes()
        if key not in self.seen:
            verdict = judge(pixels, prompt, first)
            motion = verdict.flaws.smoothness * (0.5 + 0.5 * verdict.strength)
            looks = verdict.quality
            self.seen[key] = VideoMarks(verdict.grade, motion, looks.aesthetics, looks.structure, verdict.fidelity)
        return self.seen[key]

    def _judgement(self, verdict, instruction) -> Judgement:
        return Judgement(self.sign * (3.0 if verdict else -3.0), instruction, ())

    def score_video(self, videos, prompt, instruction, *, first_frame, progress):
        assert (first_frame is not None) == needs_first_frame(instruction)
        firsts = first_frame or [None] * len(videos)
        cases = zip(videos, prompt, firsts, strict=True)
        return [self._judgement(good(instruction, self._marks(*case)), instruction) for case in cases]

    def compare_videos(self, candidates, reference, prompt, instruction, *, first_frame, debias, progress):
        assert (first_frame is not None) == needs_first_frame(instruction)
        firsts = first_frame or [None] * len(candidates)
        return [
            self._judgement(preferred(instruction, self._marks(a, p, f), self._marks(b, p, f)), instruction)
            for a, b, p, f in zip(candidates, reference, prompt, firsts, strict=True)
        ]


def test_figures_of_a_judge_that_is_nearly_always_right_and_of_one_that_is_nearly_always_wrong():
    seen = {}
    best, worst = (video_figures(Oracle(sign, seen), size=8) for sign in (1, -1))
    for name, figure in best.items():
        if name == "expected calibration error" or not figure.n:
            continue
        assert figure.value + worst[name].value == pytest.approx(1.0), name
        assert figure.value >= 0.75, name
    undamaged = "pairs of which one starts from the given frame"
    assert best[undamaged].value == 1.0 and best[undamaged].passed and not worst[undamaged].passed
    assert sum(best[f"pairwise accuracy, {name}"].n for name in VIDEO_INSTRUCTIONS) == 8


def test_judgements_keep_the_order_of_pairs():
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(9)), 12))
    found = judge_pairs(Oracle(1, {}), pairs)
    assert [j.instruction for j in found] == [pair.instruction for pair in pairs]
    assert accuracy(found, pairs) >= 0.75
    assert np.isnan(accuracy([], []))


def test_the_writer_asks_about_each_video_as_a_chat_would(taught):
    writer = VideoWriter(taught.tokenizer, 2)
    row = writer.caption_row([((0, 1), "red star top moving left fast."), ((2, 3), "white cross top.")], 0.2)
    text = taught.tokenizer.decode([token for token in row.prefix if isinstance(token, int)])
    assert text == "<|im_start|>user\nDescribe the video.\nFrame1: "
    said = [
        "".join(taught.tokenizer.decode([t]) if isinstance(t, int) else "#" for t in b.question) for b in row.branches
    ]
    assert said == ["#\nFrame2: #<|im_end|>\n<|im_start|>assistant\n"] * 2
    assert taught.tokenizer.decode(row.branches[0].answer) == "red star top moving left fast.<|im_end|>"


def test_a_rationale_ends_in_its_verdict(taught):
    writer = VideoWriter(taught.tokenizer, 2)
    asked = Asked("video-motion", parse_prompt("a video of a star moving up"), None, (0, 1))
    row = writer.rationale_row(asked, [((2, 3), "Candidate: smooth.", False)], 0.3)
    (branch,) = row.branches
    assert taught.tokenizer.decode(branch.answer) == "Candidate: smooth. Verdict: no<|im_end|>"
    assert branch.weights[-2:] == (1.0, 0.3) and set(branch.weights[:-2]) == {0.3}
