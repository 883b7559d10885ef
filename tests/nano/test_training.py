from __future__ import annotations

import math
import shutil
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_ext.nano import course
from diffusers_ext.nano.reward_model import ARCHITECTURES, build_tokenizer
from diffusers_ext.nano.train_reward import RewardRecipe, train_reward
from diffusers_ext.nano.training import Schedule, save_state
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.states import read_state
from tests.nano.recipes import SHORT


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 100),
        (49, 1 / 2),
        (99, 1.0),
        (100, 1.0),
        (599, 1.0),
        (600, 1.0),
        (800, 0.02 + 0.98 * 0.5),
        (999, 0.02 + 0.98 / 400),
        (1000, 0.02),
        (1500, 0.02),
    ],
)
def test_the_schedule_by_hand(step, factor):
    assert Schedule(1000, warmup=100, decay=0.4).factor(step) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.1), (9, 1.0), (199, 1.0), (200, 0.1), (204, 0.5), (209, 1.0), (300, 0.1), (309, 1.0)]
)
def test_warm_up_is_repeated_where_something_begins(step, factor):
    assert Schedule(1000, warmup=10, decay=0.5, starts=(0, 200, 300)).factor(step) == pytest.approx(factor)


def test_a_late_start_does_not_undo_the_decay():
    schedule = Schedule(100, warmup=10, decay=0.5, starts=(0, 90))
    assert schedule.factor(99) == pytest.approx(0.02 + 0.98 * 1 / 50)


@given(st.integers(1, 10**5), st.integers(0, 500), st.floats(0.01, 1), st.data())
def test_the_factor_is_positive_and_at_most_one(steps, warmup, decay, data):
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < Schedule(steps, warmup, decay).factor(step) <= 1


def test_the_schedule_sets_each_group_by_its_own_peak_and_survives_reloading():
    weight = torch.nn.Parameter(torch.zeros(1))
    other = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": 1.0}, {"params": [other], "lr": 0.1}])
    schedule = Schedule(1000, warmup=100, decay=0.4)
    schedule.apply(optimizer, 0)
    schedule.apply(optimizer, 49)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    fresh = torch.optim.AdamW([{"params": [weight], "lr": 1.0}, {"params": [other], "lr": 0.1}])
    fresh.load_state_dict(optimizer.state_dict())
    schedule.apply(fresh, 99)
    assert [group["lr"] for group in fresh.param_groups] == pytest.approx([1.0, 0.1])


def test_states_come_back_whole(tmp_path):
    path = tmp_path / "training.pt"
    assert read_state(path) is None
    state = {"model": {"weight": torch.randn(3, 4)}, "step": 7, "recipe": {"generated": None, "steps": 3}}
    save_state(path, state)
    found = read_state(path)
    assert torch.equal(found["model"]["weight"], state["model"]["weight"])
    assert (found["step"], found["recipe"]) == (7, state["recipe"])
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_crash_left_half_written_does_no_harm(tmp_path):
    path = tmp_path / "training.pt"
    partial = tmp_path / "training.partial"
    partial.write_bytes(b"half a file")
    assert read_state(path) is None
    save_state(path, {"step": 1})
    partial.write_bytes(b"half a file")
    assert read_state(path) == {"step": 1}
    save_state(path, {"step": 2})
    assert read_state(path) == {"step": 2}
    assert not partial.exists()


def test_a_crash_while_writing_leaves_the_old_state(tmp_path):
    path = tmp_path / "training.pt"
    save_state(path, {"step": 1})
    with pytest.raises(Exception, match=r"pickle|local"):
        save_state(path, {"step": 2, "bad": lambda: None})
    assert read_state(path) == {"step": 1}


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("pickled code ran",))


def test_a_state_runs_no_code(tmp_path):
    torch.save({"step": Payload()}, tmp_path / "training.pt")
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        read_state(tmp_path / "training.pt")


def test_the_tokenizer_is_the_same_each_time(nano_tokenizer):
    assert build_tokenizer().get_vocab() == nano_tokenizer.get_vocab()


RECIPE = replace(SHORT, architecture="reward-1m")


def test_a_short_run_writes_a_judge(tmp_path):
    model = train_reward(tmp_path, RECIPE)
    state = read_state(tmp_path / "training.pt")
    assert state["step"] == 5
    assert state["recipe"]["architecture"] == "reward-1m"
    judge = RewardModel.from_pretrained(tmp_path, device="cpu")
    for name, value in judge.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    picture = torch.rand(3, 64, 64)
    (judgement,) = judge.compare(picture, picture, "a photo of a star")
    assert judgement.reward == 0.5
    assert len(judge.tokenizer) == judge.model.config.text_config.vocab_size


def test_a_run_depends_on_its_seed_alone(tmp_path):
    recipe = RewardRecipe(architecture="reward-1m", steps=2, vision_steps=1, caption_steps=0, groups=1, vision_groups=1)
    first, again = (train_reward(tmp_path / name, recipe).state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    before = train_reward(tmp_path, RECIPE).state_dict()
    after = train_reward(tmp_path, RECIPE).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(tmp_path, monkeypatch):
    """The folder is copied at step 102, as a kill there would leave it: the state in it is that after step 99."""
    recipe = replace(RECIPE, steps=104, vision_steps=96, caption_steps=3, asking_steps=2, groups=1, seed=0)
    plain = course.counted

    @contextmanager
    def counted(title, total, start, shown):
        done = start
        with plain(title, total, start, shown) as progress:

            def advance(**figures):
                nonlocal done
                done += 1
                if done == 102 and not (tmp_path / "killed").exists():
                    shutil.copytree(tmp_path / "whole", tmp_path / "killed")

            yield SimpleNamespace(advance=advance, say=progress.say)

    monkeypatch.setattr(course, "counted", counted)
    whole = train_reward(tmp_path / "whole", recipe).state_dict()
    assert read_state(tmp_path / "killed" / "training.pt")["step"] == 100
    (tmp_path / "killed" / "training.partial").write_bytes(b"half a file")
    resumed = train_reward(tmp_path / "killed", recipe).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    ends = [read_state(tmp_path / name / "training.pt") for name in ("whole", "killed")]
    for first, second in zip(*(end["optimizer"]["state"].values() for end in ends), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert ends[0]["step"] == ends[1]["step"] == 104


@pytest.mark.slow
def test_training_learns(tmp_path):
    """Seeing alone, on few groups: the loss on fresh pictures falls."""
    from diffusers_ext.nano.detection import targets_of
    from diffusers_ext.nano.preferences import sample_group
    from diffusers_ext.nano.train_reward import SeeingLearner, pixel_values

    recipe = RewardRecipe(architecture="reward-1m", steps=150, vision_steps=150, vision_groups=4, learning_rate=3e-3)
    train_reward(tmp_path, recipe)
    judge = RewardModel.from_pretrained(tmp_path, device="cpu")
    learner = SeeingLearner(judge.model)
    learner.load_state_dict(read_state(tmp_path / "training.pt")["learner"])
    rng = np.random.default_rng(99)
    groups = [sample_group(rng) for _ in range(8)]
    with torch.inference_mode():
        _, cost, _ = learner.look(pixel_values(groups), targets_of(groups))
    ignorant = 4 * math.log(2) + math.log(8) + math.log(5)
    assert float(cost) < 0.75 * ignorant


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_are_what_their_names_say(name, nano_tokenizer):
    from diffusers_ext.nano.reward_model import build_model

    parameters = sum(p.numel() for p in build_model(ARCHITECTURES[name], nano_tokenizer).parameters())
    size = name.split("-")[1]
    assert parameters == pytest.approx(float(size[:-1]) * {"k": 1e3, "m": 1e6}[size[-1]], rel=0.1)
