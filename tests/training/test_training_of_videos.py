"""Generators of videos against judges of videos, from text and from a first frame."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.rewards.images import as_images
from diffusers_ext.rewards.instructions import PRESETS
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.videos import Clip
from diffusers_ext.training import LoraTraining, LoraTrainingError, train_lora
from diffusers_ext.training.draft import DRaFT
from diffusers_ext.training.inputs import read_inputs
from diffusers_ext.training.jitter import Jitter
from diffusers_ext.training.nft import DiffusionNFT
from diffusers_ext.training.prompts import Prompt
from diffusers_ext.training.refl import ReFL
from diffusers_ext.training.rewards import Judge, JudgeConfig
from diffusers_ext.training.setup import prepare
from tests.sampling.tiny import built

TEXTS = ("a red star moves left", "a blue circle grows")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Folders of tiny pipelines."""
    folders = {}
    for name in ("Wan", "Wan, image to video", "Wan 2.2, image to video"):
        folders[name] = str(tmp_path_factory.mktemp("pipeline"))
        built(name)[0].save_pretrained(folders[name])
    return folders


@pytest.fixture
def records(tmp_path):
    """A file of prompts with first frames, relative to it."""
    (tmp_path / "frames").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((48, 32)).save(tmp_path / f"frames/{number}.png")
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": text, "first_frame": f"frames/{number}.png"} for number, text in enumerate(TEXTS)]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return file


@pytest.fixture
def config(tmp_path, pipelines, records):
    return LoraTraining(
        out=str(tmp_path / "run"),
        pipeline=pipelines["Wan, image to video"],
        prompts=str(records),
        evaluation_prompts=str(records),
        judges=(JudgeConfig("video-reward-5m", "i2v-overall"),),
        height=32,
        width=48,
        frames=5,
        max_sequence_length=8,
        rank=2,
        alpha=2,
        iterations=2,
        groups=2,
        group_size=2,
        sampling_steps=2,
        micro_batch_size=4,
        save_every=1,
        evaluate_every=2,
        evaluation_count=2,
        evaluation_size=2,
        evaluation_steps=2,
    )


@pytest.mark.parametrize(
    "algorithm", [DiffusionNFT(guidance=2.0), ReFL(), DRaFT(steps=2)], ids=lambda algorithm: algorithm.name
)
@pytest.mark.parametrize("name", ["Wan, image to video", "Wan 2.2, image to video", "Wan"])
def test_every_algorithm_learns_from_videos(config, pipelines, records, name, algorithm):
    jitter = Jitter() if algorithm.climbs_gradient else None
    config = replace(config, pipeline=pipelines[name], algorithm=algorithm, jitter=jitter)
    if name == "Wan":
        records.with_suffix(".txt").write_text("\n".join(TEXTS))
        plain, judge = str(records.with_suffix(".txt")), JudgeConfig("video-reward-5m", "video-overall")
        config = replace(config, prompts=plain, evaluation_prompts=plain, judges=(judge,))
    result = train_lora(config)
    assert result.finished
    state = torch.load(result.out / "state.pt", weights_only=True)
    ups = [value for key, value in state["weights"]["learned"].items() if "lora_B" in key]
    assert sum(bool(value.abs().max() > 0) for value in ups) > len(ups) / 2
    entries = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["reward"]) for entry in entries if "evaluation" not in entry)


def test_videos_begin_with_the_pictures_of_their_prompts_and_are_judged_beside_them(config, monkeypatch):
    seen = []

    def score_video(self, videos, prompt, instruction, first_frame=None, **options):
        seen.append((prompt, [picture.tobytes() for picture in first_frame], [clip.rate for clip in videos]))
        return original(self, videos, prompt, instruction, first_frame, **options)

    original = RewardModel.score_video
    monkeypatch.setattr(RewardModel, "score_video", score_video)
    setup = prepare(replace(config, fps=24.0, evaluation_guidance=2.0), inputs := read_inputs(config))
    prompts = [inputs.prompts[1], inputs.prompts[0], inputs.prompts[1]]
    painted = setup.studio.paint(prompts, [(0, number) for number in range(3)])
    found = setup.studio.rewards(painted, prompts, 0)
    pictures = [Image.open(prompt.first_frame).convert("RGB") for prompt in prompts]
    assert seen == [([TEXTS[1], TEXTS[0], TEXTS[1]], [picture.tobytes() for picture in pictures], [24.0] * 3)]
    judge = RewardModel.from_pretrained("video-reward-5m", device="cpu")
    clips = [Clip(tuple(as_images(video)), 24.0) for video in painted]
    expected = original(judge, clips, [prompt.text for prompt in prompts], "i2v-overall", pictures)
    assert found.tolist() == pytest.approx([item.log_odds for item in expected], abs=1e-4)
    # What the denoiser was given beside the latents, of a prompt and of the same without words.
    given = setup.studio.condition([prompts[0], prompts[0].unsaid, prompts[1]])["beginning"]
    assert torch.equal(given[0], given[1]) and not torch.equal(given[0], given[2])


def test_the_gradient_of_a_video_is_of_the_reward_that_it_is_given(config):
    video = torch.rand(2, 4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    firsts = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    model = RewardModel.from_pretrained("video-reward-5m", device="cpu")
    for name in ("i2v-overall", "video-motion"):
        judge = Judge(JudgeConfig(scale="log_probability"), model, PRESETS[name], fps=12.0)
        shown = ((video * 255).round() / 255).requires_grad_()
        found = judge.gradient_reward(shown, TEXTS, None, firsts)
        expected = judge.reward(shown, TEXTS, None, firsts)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=2e-2)  # where Pillow rounds in resizing
        found.sum().backward()
        assert (shown.grad.flatten(2).abs().amax(2) > 0).all()


def test_a_first_frame_that_changed_is_another_run(config, records):
    train_lora(replace(config, iterations=1))
    Image.new("RGB", (48, 32), "green").save(records.parent / "frames/1.png")
    with pytest.raises(LoraTrainingError, match=r"prompts: .* says something else"):
        train_lora(config)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"prompts: line 2 of .*prompts\.jsonl is no JSON"),
        ('["a star"]', "line 2 of .* expected a record like"),
        ('{"prompt": ""}', "expected a record like"),
        ('{"prompt": "a star", "first_frame": 3}', "expected a record like"),
        ('{"prompt": "a star", "first_frame": "frames/9.png"}', r"line 2 of .*9\.png: there is no such file"),
        ('{"prompt": "a star"}', "'a star' names no first_frame, and WanImageToVideoPipeline begins with one"),
    ],
)
def test_records_that_are_none_are_refused_by_their_line(config, records, line, message):
    first, _ = records.read_text().splitlines()
    records.write_text(f"{first}\n{line}\n")
    with pytest.raises(LoraTrainingError, match=message):
        prepare(config, read_inputs(config))


def test_a_jsonl_of_prompts_alone_is_as_good_as_a_text(records):
    records.write_text('{"prompt": "a star", "number": 3}\n\n{"prompt": "a circle"}\n')
    inputs = read_inputs(LoraTraining(out="unused", prompts=str(records), evaluation_prompts=str(records)))
    assert inputs.prompts == (Prompt("a star"), Prompt("a circle"))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Wan", {}, "names a first_frame, and WanPipeline takes none"),
        (
            "Wan",
            {"prompts": "nano", "evaluation_prompts": "nano"},
            "i2v-overall is about a first frame, and WanPipeline",
        ),
        (
            "Wan, image to video",
            {"judges": (JudgeConfig("video-reward-5m", "overall"),)},
            "overall judges pictures, and WanImageToVideoPipeline makes videos; take video-overall",
        ),
        (
            "Wan, image to video",
            {"second_judge": JudgeConfig("video-reward-5m", "alignment")},
            "alignment judges pictures",
        ),
        ("Wan, image to video", {"frames": 6}, "frames: .* one more than a multiple of 4, not 6; take 5"),
        ("Wan, image to video", {"frames": 1}, "frames: .* goes on from a picture, so say how many frames to make"),
        ("Wan, image to video", {"height": 50}, "height: .* multiples of 16, not 50; take 48"),
    ],
)
def test_what_does_not_go_together_is_refused(config, pipelines, name, changes, message):
    config = replace(config, pipeline=pipelines[name], **changes)
    with pytest.raises(LoraTrainingError, match=message):
        prepare(config, read_inputs(config))
