from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from diffusers_ext.data import Located, Preference, write
from diffusers_ext.reward_training import train_reward_model
from diffusers_ext.reward_training.config import RewardTraining, TrainingError
from diffusers_ext.reward_training.lessons import lessons_of, read_records
from diffusers_ext.rewards.images import as_images
from diffusers_ext.rewards.instructions import PRESETS

CONFIG = RewardTraining(("train.jsonl",), "out")


def taught(judge, item, config=CONFIG, seed=0):
    return lessons_of(judge, item, PRESETS["overall"], config, np.random.default_rng(seed))


@pytest.fixture
def items(preferences):
    return read_records([str(preferences / "train.jsonl")], ties=False)


def test_every_pair_is_seen_in_both_orders_with_opposite_answers(untrained_judge, items):
    item = items[0]
    first, second = taught(untrained_judge, item)
    assert (first.yes, second.yes) == (0.0, 1.0), "b was chosen"
    assert first.question.pictures == second.question.pictures[::-1]
    asked = untrained_judge.question(item.open(item.record.a), item.record.prompt, item.open(item.record.b))
    assert first.question == asked


def test_a_rationale_is_taught_token_by_token_and_the_verdict_after_it(untrained_judge, items):
    *direct, told = taught(untrained_judge, items[1])
    assert len(direct) == 2 and told.yes == 1.0
    words = untrained_judge.tokenizer.decode(told.question.texts[-1][-told.taught :])
    assert words.strip() == "The candidate is vivid. Verdict:"
    assert not [
        lesson for lesson in taught(untrained_judge, items[1], replace(CONFIG, rationales=0.0)) if lesson.taught
    ]


def test_alone_the_chosen_one_is_good_and_the_other_is_not(untrained_judge, items):
    pointwise = replace(CONFIG, questions="pointwise")
    lessons = taught(untrained_judge, items[1], pointwise)
    assert [lesson.yes for lesson in lessons] == [1.0, 0.0]
    assert all(len(lesson.question.pictures) == 1 for lesson in lessons)
    mixed = replace(CONFIG, questions="mixed")
    kinds = {len(taught(untrained_judge, items[1], mixed, seed)[0].question.pictures) for seed in range(8)}
    assert kinds == {1, 2}


def test_ties_teach_neither_answer_and_weigh_what_they_are_told_to(untrained_judge, items):
    tie = replace(items[0], record=replace(items[0].record, choice="tie"))
    lessons = taught(untrained_judge, tie, replace(CONFIG, ties=0.25))
    assert [(lesson.yes, lesson.weight) for lesson in lessons] == [(0.5, 0.25)] * 2


def test_a_clear_choice_weighs_more(untrained_judge, items):
    sure = replace(items[0], record=replace(items[0].record, strength=0.4))
    assert {lesson.weight for lesson in taught(untrained_judge, sure)} == {0.4}


def test_records_in_bytes_are_the_same_lessons(untrained_judge, items, preferences):
    item = items[0]
    inside = replace(item.record, a=(preferences / item.record.a).read_bytes())
    assert taught(untrained_judge, Located(inside, item.folder, "here")) == taught(untrained_judge, item)


@pytest.fixture
def begun(pictures, tmp_path):
    """A record of two videos (folders of frames) that were to begin with a picture."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            pictures[number if name == "a" else 3 - number].save(tmp_path / name / f"{number}.png")
    pictures[0].save(tmp_path / "first.png")
    record = Preference("a photo of a star", "a", "b", "a", instruction="i2v-overall", first_frame="first.png")
    return Located(record, tmp_path, "here")


def test_a_first_frame_is_shown_where_the_instruction_is_about_it(untrained_judge, begun):
    lessons = lessons_of(untrained_judge, begun, PRESETS["i2v-overall"], CONFIG, np.random.default_rng(0))
    first = as_images(begun.folder / "first.png")[0].tobytes()
    for lesson in lessons:
        assert len(lesson.question.pictures) == 1 + 4 + 4
        assert lesson.question.pictures[0].frames[0].tobytes() == first
    others = lessons_of(untrained_judge, begun, PRESETS["video-overall"], CONFIG, np.random.default_rng(0))
    assert {len(lesson.question.pictures) for lesson in others} == {4 + 4}


def test_a_run_whose_instruction_is_about_first_frames_that_are_not_there_does_not_begin(begun, tmp_path):
    write(tmp_path / "bad.jsonl", [begun.record, replace(begun.record, first_frame=None)])
    run = RewardTraining((str(tmp_path / "bad.jsonl"),), str(tmp_path / "out"))
    with pytest.raises(TrainingError, match=r"1 records name no first_frame(.|\n)*row 2"):
        train_reward_model(run)
    assert not (tmp_path / "out").exists()


def test_missing_pictures_are_named_before_anything_is_trained(preferences, tmp_path):
    record = Preference("a star", "gone.png", str((preferences / "media/0a.png").name), "a")
    write(tmp_path / "bad.jsonl", [record])
    with pytest.raises(TrainingError, match=r"row 1: a names .*gone.png, which is not there"):
        read_records([str(tmp_path / "bad.jsonl")], ties=False)


@pytest.mark.parametrize("choices", [(), ("tie", "tie")])
def test_nothing_to_learn_from_is_said(preferences, choices):
    file = preferences / f"only{len(choices)}.jsonl"
    write(file, [Preference("a star", "media/0a.png", "media/0b.png", choice) for choice in choices])
    with pytest.raises(TrainingError, match=r"none of . records says which of two is better"):
        read_records([str(file)], ties=False)
