from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diffusers_ext.nano.bradley_terry import (
    QUESTIONS,
    BradleyTerryLearner,
    BradleyTerryLessons,
    compared_rows,
    train_bradley_terry,
)
from diffusers_ext.nano.course import Course, Learner, on_device, prepared, train
from diffusers_ext.nano.export import average, export_reward_model
from diffusers_ext.nano.packing import hidden_states, pack
from diffusers_ext.nano.preferences import GROUP, marks, preferred, sample_group
from diffusers_ext.nano.reward_model import TOKENS_PER_IMAGE
from diffusers_ext.nano.train_reward import RewardLessons, Writer, pixel_values, scaled, train_reward
from diffusers_ext.nano.training import Schedule
from diffusers_ext.rewards.bradley_terry import BradleyTerryModel, ScalarHead
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.instructions import PRESETS
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.states import read_state
from tests.nano.recipes import SHORT


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if first is None or isinstance(first, bool):
        return first is second
    return all(same(getattr(first, name), getattr(second, name)) for name in vars(first))


@pytest.mark.parametrize("lessons", [RewardLessons, BradleyTerryLessons])
def test_lessons_prepared_by_other_processes_are_the_same_and_in_order(nano_tokenizer, lessons):
    of_step = lessons(SHORT, Writer(nano_tokenizer))
    alone = list(prepared(of_step, range(1, 6), workers=0))
    ahead = list(prepared(of_step, range(1, 6), workers=2))
    assert len(alone) == len(ahead) == 5
    assert all(map(same, alone, ahead))
    assert not same(alone[2], alone[3])


@pytest.mark.parametrize(
    ("step", "minutes", "factor"),
    [(0, 0.0, 0.1), (500, 0.0, 1.0), (500, 6.0, 1.0), (500, 8.0, 0.02 + 0.98 * 0.5), (800, 1.0, 0.02 + 0.98 * 0.5)],
)
def test_the_learning_rate_falls_with_the_end_that_is_nearer(step, minutes, factor):
    schedule = Schedule(1000, warmup=10, decay=0.4, minutes=10.0)
    assert schedule.factor(step, minutes) == pytest.approx(factor)


class Guess(Learner):
    """Learns one number."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, lesson):
        cost = (self.value - lesson.float()).square().sum()
        return cost, {"off": cost.detach()}

    def save(self, out):
        (out / "value.json").write_text(json.dumps(self.value.item()))


def test_a_run_ends_when_its_minutes_are_over_and_goes_on_from_there(tmp_path):
    course = Course(steps=10**9, minutes=0.01, learning_rate=1e-4, save_every=10**9)
    train(course, Guess(), lambda step: torch.tensor([2.0]), tmp_path, "guess")
    state = read_state(tmp_path / "training.pt")
    assert 1 < state["step"] < 10**9
    assert json.loads((tmp_path / "value.json").read_text()) == state["learner"]["value"].item()
    more = Guess()
    train(replace(course, minutes=None, steps=state["step"] + 5), more, lambda step: torch.tensor([2.0]), tmp_path, "")
    assert read_state(tmp_path / "training.pt")["step"] == state["step"] + 5
    assert more.value.item() != state["learner"]["value"].item()


def test_what_is_moved_keeps_its_shape(nano_tokenizer):
    lesson = BradleyTerryLessons(SHORT, Writer(nano_tokenizer))(4)
    moved = on_device(lesson, torch.device("meta"))
    assert type(moved) is type(lesson) and len(moved.told) == len(lesson.told)
    assert moved.told[0].tokens.device.type == moved.compared.pairs.device.type == "meta"
    assert moved.compared.pairs.shape == lesson.compared.pairs.shape


@dataclass(frozen=True)
class Asked:
    prompt: str
    instruction: str
    first: int
    second: int


def asked_pairs(writer, rows, pairs, groups):
    """What the packed rows ask, read off their tokens."""
    names = {tuple(writer.tokenizer(PRESETS[name].text).input_ids): name for name in PRESETS}
    for better, worse in pairs.tolist():
        row = rows[better // GROUP]
        assert row is rows[worse // GROUP], "pictures of one question are compared with each other alone"
        tokens = [item for branch in row.branches for item in (*row.prefix, *branch.question) if isinstance(item, int)]
        (name,) = {name for ids, name in names.items() if str(list(ids))[1:-1] in str(tokens)}
        first, second = (
            next(item.index for item in row.branches[place % GROUP].question if not isinstance(item, int))
            for place in (better, worse)
        )
        yield Asked(groups[first // GROUP].spec.text, name, first, second)


def test_pairs_of_the_rival_are_the_truth(nano_tokenizer):
    rng = np.random.default_rng(5)
    groups = [sample_group(rng) for _ in range(3)]
    writer = Writer(nano_tokenizer)
    rows, pairs = compared_rows(writer, rng, groups)
    assert len(rows) == QUESTIONS * len(groups) and len(pairs) > 20
    for asked in asked_pairs(writer, rows, pairs, groups):
        group = groups[asked.first // GROUP]
        assert asked.first // GROUP == asked.second // GROUP
        better, worse = (marks(group.pictures[index % GROUP], group.spec) for index in (asked.first, asked.second))
        assert preferred(asked.instruction, better, worse) is True


def test_the_rivals_cost_is_that_of_bradley_and_terry(nano_judge, nano_tokenizer):
    """Against rewards of the same head, picture by picture, in float64."""
    lesson = BradleyTerryLessons(replace(SHORT, groups=1), Writer(nano_tokenizer))(4)
    learner = BradleyTerryLearner(nano_judge.model, Writer(nano_tokenizer), SHORT)
    torch.manual_seed(0)
    learner.head.weight.data = 10 * torch.randn_like(learner.head.weight)
    with torch.inference_mode():
        features, _, _ = learner.look(scaled(lesson.pixels), lesson.targets)
        spoken, _ = super(BradleyTerryLearner, learner).study(lesson, features)
        cost, figures = learner.study(lesson, features)
        asked = lesson.compared.asked
        states = hidden_states(nano_judge.model, asked, features)
        weight = learner.head.weight.double()
        rewards = [
            float(states[row, column].double() @ weight)
            for row in range(len(states))
            for column in range(states.shape[1])
            if asked.targets[row, column] >= 0
        ]
    margins = torch.tensor([rewards[a] - rewards[b] for a, b in lesson.compared.pairs.tolist()], dtype=torch.float64)
    assert float(cost - spoken) == pytest.approx(float(F.softplus(-margins).mean()), rel=1e-4)
    assert float(figures["ordered"]) == pytest.approx(float((margins > 0).double().mean()))


def test_a_rival_judges_as_it_learned(tmp_path, nano_tokenizer):
    """The trained folder, loaded as any judge, gives the rewards that its training saw; in half precision nearly so."""
    train_bradley_terry(tmp_path / "rival", SHORT)
    head = ScalarHead.load(tmp_path / "rival")
    torch.manual_seed(0)
    head.weight.data = torch.randn_like(head.weight)
    head.save(tmp_path / "rival")
    judge = RewardModel.from_pretrained(tmp_path / "rival", device="cpu")
    assert isinstance(judge, BradleyTerryModel)
    group = sample_group(np.random.default_rng(6))
    writer = Writer(judge.tokenizer)
    row = writer.judgement_row("alignment", group.spec, None, [(index, True) for index in range(GROUP)])
    packed = pack([row], writer.frame, TOKENS_PER_IMAGE, writer.tokenizer.pad_token_id)
    with torch.inference_mode():
        features = judge.model.get_image_features(pixel_values([group]), return_dict=True).pooler_output
        seen = head(hidden_states(judge.model, packed, features).flatten(0, 1)[packed.places])
    pictures = torch.stack([scaled(torch.from_numpy(picture.pixels)[None])[0] for picture in group.pictures])
    found = judge.score(list((pictures + 1) / 2), group.spec.text, "alignment")
    assert [item.log_odds for item in found] == pytest.approx(seen.tolist(), abs=1e-3)
    export_reward_model(tmp_path / "rival", tmp_path / "half")
    half = RewardModel.from_pretrained(tmp_path / "half", device="cpu")
    again = half.score(list((pictures + 1) / 2), group.spec.text, "alignment")
    assert [item.log_odds for item in again] == pytest.approx(seen.tolist(), abs=0.2)


def test_the_mean_of_two_judges_lies_half_way_and_loads(tmp_path):
    for seed in (1, 2):
        train_reward(tmp_path / str(seed), replace(SHORT, steps=1, vision_steps=1, seed=seed))
    average([tmp_path / "1", tmp_path / "2"], tmp_path / "mean")
    first, second, mean = (
        RewardModel.from_pretrained(tmp_path / name, device="cpu").model.state_dict() for name in ("1", "2", "mean")
    )
    for name, value in mean.items():
        torch.testing.assert_close(value, (first[name].double() + second[name].double()).div(2).float())
    train_reward(tmp_path / "larger", replace(SHORT, architecture="reward-400k", steps=1, vision_steps=1))
    with pytest.raises(ModelError, match="larger: not of the same shape"):
        average([tmp_path / "1", tmp_path / "larger"], tmp_path / "none")
    assert not (tmp_path / "none").exists()
