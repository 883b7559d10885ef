from __future__ import annotations

import numpy as np
import pytest
import torch

from comfy_nodes.folders import SHIPPED, reward_model_folder, reward_models
from comfy_nodes.latents import take
from comfy_nodes.pictures import one_picture, pictures
from comfy_nodes.reporting import report
from comfy_nodes.watching import PART, Watched
from diffusers_ext.rewards.errors import ImageError, ModelError
from diffusers_ext.rewards.images import load_image
from diffusers_ext.rewards.judgement import Judgement
from diffusers_ext.rewards.videos import Clip

PROMPT = "a photo of a red star"


@pytest.fixture
def batch(pictures_as_given):
    return torch.from_numpy(np.stack([np.asarray(item) for item in pictures_as_given])).float() / 255


@pytest.fixture
def pictures_as_given(request):
    return request.getfixturevalue("pictures")


def test_pictures_come_out_as_they_were_before_comfyui_loaded_them(batch, pictures_as_given):
    assert [item.tobytes() for item in pictures(batch)] == [item.tobytes() for item in pictures_as_given]


def test_values_outside_of_the_range_are_clamped(batch):
    assert pictures(batch * 3 - 1)[0].tobytes() == pictures((batch * 3 - 1).clamp(0, 1))[0].tobytes()


def test_one_channel_is_grey(batch):
    assert len(set(pictures(batch[..., :1])[0].getpixel((3, 4)))) == 1


def test_transparency_is_laid_over_white_as_in_files(batch, pictures_as_given):
    alpha = torch.linspace(0, 1, 64).expand(len(batch), 64, 64)[..., None]
    found = np.asarray(pictures(torch.cat([batch, alpha], -1))[0], dtype=int)
    clear = pictures_as_given[0].convert("RGBA")
    clear.putalpha(pictures((alpha).expand(-1, -1, -1, 3))[0].convert("L"))
    assert np.abs(found - np.asarray(load_image(clear), dtype=int)).max() <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": torch.zeros(1, 16, 8, 8)}, "here: got a latent .* put a VAE Decode node between"),
        (torch.zeros(2, 64, 64), "here: got a mask .* put a Convert Mask to Image node between"),
        (torch.zeros(0, 64, 64, 3), "here: the batch is empty"),
        (torch.zeros(1, 64, 64, 2), r"here: got Tensor \[1, 64, 64, 2\]; expected pictures"),
        (None, "here: got NoneType"),
        (torch.full((1, 8, 8, 3), float("nan")), "NaN"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_way_out(given, message):
    with pytest.raises(ImageError, match=message):
        pictures(given, "here")


def test_one_picture_is_one(batch):
    assert one_picture(batch[:1], "image_a").size == (64, 64)
    with pytest.raises(ImageError, match="image_a: got a batch of 6, expected one picture"):
        one_picture(batch, "image_a")


def test_latents_are_taken_with_what_belongs_to_them():
    latents = {
        "samples": torch.arange(4.0).view(4, 1, 1, 1),
        "noise_mask": torch.arange(4.0).view(4, 1, 1),
        "batch_index": [10, 11, 12, 13],
        "type": "some",
    }
    taken = take(latents, [2, 0], 4)
    assert taken["samples"].flatten().tolist() == taken["noise_mask"].flatten().tolist() == [2.0, 0.0]
    assert taken["batch_index"] == [12, 10]
    assert taken["type"] == "some"
    assert len(latents["samples"]) == 4


def test_one_mask_for_all_latents_stays():
    mask = torch.ones(1, 8, 8)
    assert take({"samples": torch.zeros(4, 1, 8, 8), "noise_mask": mask}, [1], 4)["noise_mask"] is mask


def test_models_are_found_below_the_roots_through_links_too(tmp_path, untrained_model_folder):
    (tmp_path / "first" / "family").mkdir(parents=True)
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "family" / "mine").symlink_to(untrained_model_folder)
    roots = [tmp_path / "first", tmp_path / "second", tmp_path / "not there"]
    assert set(reward_models(roots)) == {*SHIPPED, "family/mine"}
    assert reward_model_folder("family/mine", roots) == tmp_path / "first" / "family" / "mine"
    with pytest.raises(ModelError) as error:
        reward_model_folder("lost", roots)
    for name in ("'lost'", "'family/mine'", str(tmp_path / "second"), *SHIPPED):
        assert name in str(error.value)


@pytest.fixture
def watched(untrained_judge):
    shown = []
    return Watched(untrained_judge, lambda done, total: shown.append((done, total)), lambda: False), shown


def test_a_watched_judge_says_the_same_and_shows_how_far_it_is(watched, untrained_judge, pictures_as_given):
    judge, shown = watched
    many = pictures_as_given * 4
    expected = untrained_judge.score(many, PROMPT)
    found = judge.score(many, PROMPT)
    assert [item.candidate for item in found] == list(range(24))
    assert [item.log_odds for item in found] == pytest.approx([item.log_odds for item in expected], abs=1e-4)
    assert shown == [(PART, 24), (24, 24)]


@pytest.mark.parametrize("each", [False, True])
def test_a_watched_judge_compares_as_the_judge_does(watched, untrained_judge, pictures_as_given, each):
    many = pictures_as_given * 3
    reference = many[::-1] if each else many[2]
    expected = untrained_judge.compare(many, reference, PROMPT)
    found = watched[0].compare(many, reference, PROMPT)
    assert [(item.candidate, item.reference) for item in found] == [
        (item.candidate, item.reference) for item in expected
    ]
    assert [item.log_odds for item in found] == pytest.approx([item.log_odds for item in expected], abs=1e-4)


def test_what_cancel_raises_comes_through_between_batches(untrained_judge, pictures_as_given):
    shown = []

    def stop():
        if shown:
            raise KeyboardInterrupt

    judge = Watched(untrained_judge, lambda *state: shown.append(state), stop)
    with pytest.raises(KeyboardInterrupt):
        judge.score(pictures_as_given * 4, PROMPT)
    assert shown == [(PART, 24)]
    assert len(untrained_judge.score(pictures_as_given[:1], PROMPT)) == 1


def test_a_watched_judge_scores_a_video_as_the_judge_does(watched, untrained_judge, pictures_as_given):
    [expected] = untrained_judge.score_video(Clip(tuple(pictures_as_given)), PROMPT, frames=3)
    found = watched[0].score_video(Clip(tuple(pictures_as_given)), PROMPT, frames=3)
    assert found.log_odds == pytest.approx(expected.log_odds, abs=1e-4)


def test_a_report_has_a_line_for_each():
    good = Judgement(2.0, "overall", (), 3, explanation="Sharp.\nAll there.")
    assert report([good, Judgement(-30.0, "overall", (), 0)]) == "4: 0.881 Sharp. All there.\n1: 0.000"
