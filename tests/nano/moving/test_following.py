from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusers_ext.nano.moving.following import Follower, trails_of
from diffusers_ext.nano.moving.preferences import sample_group
from diffusers_ext.nano.moving.render import SMOOTH, MotionFlaws, Video
from diffusers_ext.nano.moving.scenes import MovingScene
from diffusers_ext.nano.moving.train_video_reward import lay_out
from diffusers_ext.nano.packing import Branch, Picture, Row, hidden_states, pack, watching
from diffusers_ext.nano.reward_model import TOKENS_PER_IMAGE
from diffusers_ext.nano.scenes import SceneObject
from diffusers_ext.nano.train_reward import pixel_values

SHOWN = (1, 3, 5, 7)


def one_star(flaws: MotionFlaws = SMOOTH) -> Video:
    """From (12, 40), three pixels to the right and one up per frame."""
    star = SceneObject("star", "red", x=12.0, y=40.0, radius=6.0, rgb=(200, 30, 30), rotation=0.0)
    return Video.of(MovingScene((star,), ((3.0, -1.0),), (30, 30, 40)), np.random.default_rng(0), flaws)


def test_a_steady_object_has_moved_by_its_velocity_since_the_frame_before():
    trails = trails_of([((2, 3, 4, 5), one_star())], 7)
    assert trails.last.tolist() == [5] and trails.flaws.tolist() == [[0.0] * 5]
    assert trails.known.sum(1).tolist() == [0, 0, 0, 1, 1, 1, 0], "nothing came before a video's first frame"
    for place, time in zip((3, 4, 5), SHOWN[1:], strict=True):
        column, row = int((12 + 3 * time) // 16), int((40 - time) // 16)
        assert trails.known[place, 4 * row + column]
        assert trails.moved[place, 4 * row + column].tolist() == [6 / 4, -2 / 4, (time - 1) * 3 / 4, (1 - time) / 4]


def test_where_an_object_stops_is_seen_in_how_it_moved():
    video = one_star(MotionFlaws(freeze=1.0))
    trails = trails_of([((0, 1, 2, 3), video)], 4)
    assert trails.moved[3, :, :2].abs().sum() == 0 and trails.moved[1, :, :2].abs().sum() > 0
    assert trails.moved[3, :, 2:].abs().sum() > 0
    assert trails.flaws[0].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_what_is_read_off_can_be_learned_and_is_measured_in_pixels():
    """On states that hold the truth, a linear read-out finds it; which picture is which is kept through packing."""
    group = sample_group(np.random.default_rng(3))
    pictures, (item,) = lay_out([group], 4, 0)
    videos = list(zip(item.videos, group.videos, strict=True))
    trails = trails_of(videos, sum(len(part.pictures) for part in pictures))
    branches = [Branch(tuple(Picture(index) for index in frames), (1,), (1.0,)) for frames in item.videos]
    rows = Row((5,), tuple(branches[:2])), Row((5,), tuple(branches[2:]))
    torch.manual_seed(0)
    mixing = torch.randn(9, 64)
    seen = []
    for packed in (pack([row], (6, 7, 8), TOKENS_PER_IMAGE, 0) for row in rows):
        truth = torch.zeros(len(packed.pictures), TOKENS_PER_IMAGE, 9)
        truth[..., :4] = trails.moved[packed.pictures]
        for last, flaws in zip(trails.last, trails.flaws, strict=True):
            truth[packed.pictures == last, :, 4:] = flaws
        states = torch.randn(*packed.tokens.shape, 64)
        states[packed.tokens == 7] = (truth @ mixing).reshape(-1, 64)
        seen.append((packed, states))
    follower = Follower(64)
    optimizer = torch.optim.Adam(follower.parameters(), 3e-2)
    untaught = follower(seen, 7, trails)[1]
    for _ in range(200):
        loss, taught = follower(seen, 7, trails)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert taught["off"] < 0.5 * untaught["off"] and taught["moving"] < 0.5 * untaught["moving"]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_states_that_are_kept_are_those_of_that_layer(nano_judge, depth):
    model = nano_judge.model
    context = model.config.image_token_id
    packed = pack([Row((4, Picture(0), 9), (Branch((3,), (1,), (1.0,)),))], (6, context, 8), TOKENS_PER_IMAGE, 0)
    group = sample_group(np.random.default_rng(4))
    with torch.inference_mode():
        pictures = pixel_values(lay_out([group], 1, 0)[0])
        features = model.get_image_features(pictures[:1], return_dict=True).pooler_output
        with watching(model, depth) as kept:
            hidden_states(model, packed, features)
        hidden_states(model, packed, features)
        embeddings = model.get_input_embeddings()(packed.tokens)
        embeddings[packed.tokens == context] = features.reshape(-1, embeddings.shape[-1])
        whole = model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            output_hidden_states=True,
            use_cache=False,
        )
    (states,) = kept
    torch.testing.assert_close(states, whole.hidden_states[depth])
