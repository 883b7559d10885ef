from __future__ import annotations

import pytest
import torch

from diffusers_ext.nano.marking import SHARE, Marker, of_two
from diffusers_ext.nano.packing import Branch, Picture, Row, pack
from diffusers_ext.nano.reward_model import ARCHITECTURES, build_model
from diffusers_ext.nano.train_reward import RewardLearner, RewardLessons, RewardRecipe, Writer, scaled

WIDTH = 32
IMAGE = 91


def branch(*items):
    return Branch(items, (3,), (1.0,))


@pytest.fixture
def packed():
    """A row with a reference and two candidates, and one of two pictures that are asked about one by one."""
    two = Row((1, Picture(0)), (branch(2, Picture(1), 2), branch(2, Picture(2))))
    one = Row((1,), (branch(Picture(0)), branch(Picture(1))))
    return pack([two, one], frame=(90, IMAGE, 92), tokens_per_picture=2, pad=0)


def test_pictures_of_rows_with_a_reference_are_marked_and_no_others(packed):
    context = packed.tokens == IMAGE
    assert of_two(packed, IMAGE)[0].tolist() == context[0].tolist()
    assert context[0].sum() == 6 and context[1].sum() == 4 and not of_two(packed, IMAGE)[1].any()


def test_what_marks_lack_is_measured_in_their_length(packed):
    """In float64, token by token; perfect marks lack nothing, none at all everything."""
    marker = Marker(WIDTH)
    torch.manual_seed(0)
    states = torch.randn(*packed.tokens.shape, WIDTH)
    cost, share = marker([(packed, states)], IMAGE)
    places = [(0, column) for column in range(packed.tokens.shape[1]) if packed.tokens[0, column] == IMAGE]
    rows = torch.stack([states[place] for place in places]).double()
    signs = torch.tensor([1.0 if packed.segments[place] else -1.0 for place in places], dtype=torch.float64)
    along = rows @ marker.axis.double()
    length = SHARE * rows.norm(dim=1).mean()
    assert float(cost) == pytest.approx(float((along / length - signs).square().mean()), rel=1e-5)
    assert float(share) == pytest.approx(float((along.sign() == signs).double().mean()))
    plain = states - (states @ marker.axis)[..., None] * marker.axis
    assert float(marker([(packed, plain)], IMAGE)[0]) == pytest.approx(1.0, abs=1e-4)
    across = (1 - SHARE**2) ** 0.5 * plain / plain.norm(dim=-1, keepdim=True)
    along = torch.where(packed.segments > 0, SHARE, -SHARE)[..., None] * marker.axis
    cost, share = marker([(packed, across + along)], IMAGE)
    assert float(cost) == pytest.approx(0.0, abs=1e-8) and float(share) == 1.0


def test_rows_without_a_reference_cost_nothing(packed):
    alone = pack([Row((1,), (branch(Picture(0)),))], frame=(90, IMAGE, 92), tokens_per_picture=2, pad=0)
    states = torch.randn(*alone.tokens.shape, WIDTH, requires_grad=True)
    cost, share = Marker(WIDTH)([(alone, states)], IMAGE)
    cost.backward()
    assert float(cost.detach()) == float(share) == 0.0 and not states.grad.any()


def test_only_lessons_that_compare_statements_mark(nano_tokenizer):
    recipe = RewardRecipe(steps=6, vision_steps=1, caption_steps=1, asking_steps=2, groups=1, vision_groups=1)
    assert [RewardLessons(recipe, Writer(nano_tokenizer))(step).asking for step in range(6)] == [
        *(False, False, True, True, False, False)
    ]


def test_a_first_layer_learns_to_mark_in_a_hundred_steps(nano_tokenizer):
    """On the lessons themselves, and then on pictures that it was not taught with."""
    torch.manual_seed(0)
    recipe = RewardRecipe(vision_steps=0, caption_steps=0, groups=1, asked=0, compared=2)
    writer = Writer(nano_tokenizer)
    learner = RewardLearner(build_model(ARCHITECTURES["reward-200k"], nano_tokenizer), writer, recipe)
    lessons = RewardLessons(recipe, writer)
    optimizer = torch.optim.AdamW(learner.parameters(), 2e-3)
    for step in range(100):
        lesson = lessons(step)
        features, _, _ = learner.look(scaled(lesson.pixels), lesson.targets)
        cost, figures = learner.study(lesson, features)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    assert figures["told_apart"] > 0.95
    with torch.no_grad():
        lesson = lessons(500)
        features, _, _ = learner.look(scaled(lesson.pixels), lesson.targets)
        assert learner.study(lesson, features)[1]["told_apart"] > 0.95
