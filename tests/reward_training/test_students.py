from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffusers_ext.reward_training.config import RewardTraining
from diffusers_ext.reward_training.lessons import Lesson, lessons_of, read_records
from diffusers_ext.reward_training.students import BradleyTerryStudent, GenerativeStudent
from diffusers_ext.rewards import prompts
from diffusers_ext.rewards.instructions import PRESETS
from diffusers_ext.rewards.model import RewardModel

BY = PRESETS["overall"]


@pytest.fixture
def judge(untrained_model_folder):
    return RewardModel.from_pretrained(untrained_model_folder, device="cpu")


@pytest.fixture
def lessons(judge, preferences):
    items = read_records([str(preferences / "train.jsonl")], ties=False)
    config = RewardTraining(("x",), "out")
    return [lesson for item in items[:2] for lesson in lessons_of(judge, item, BY, config, np.random.default_rng(0))]


def logits_of(judge, text, images):
    """By transformers alone: the whole model on what its processor makes of the whole text."""
    inputs = judge.processor(images=images, text=[text], return_tensors="pt")
    with torch.no_grad():
        return judge.model(**inputs).logits[0].double(), inputs["input_ids"][0]


def test_the_loss_is_plain_next_token_cross_entropy(judge, lessons, preferences):
    student = GenerativeStudent(judge.backbone, checkpointing=False, rationales=0.3)
    told = [lesson for lesson in lessons if lesson.taught]
    direct = next(lesson for lesson in lessons if not lesson.taught)
    images = [picture.frames[0] for picture in direct.question.pictures]
    chat = {"add_generation_prompt": True, "tokenize": False}

    messages = prompts.question(BY, "a photo of a star", pairwise=True, explain=False)
    text = judge.processor.apply_chat_template(messages, **chat)
    logits, _ = logits_of(judge, text, images)
    answers = judge.backbone.answers
    group = list(answers.yes if direct.yes else answers.no)
    expected = -F.log_softmax(logits[-1], -1)[group].logsumexp(0)
    torch.testing.assert_close(student([direct])[0].double(), expected, rtol=1e-4, atol=1e-4)

    (lesson,) = told
    messages = prompts.question(BY, "a photo of a star", pairwise=True, explain=True)
    before = judge.processor.apply_chat_template(messages, **chat)
    images = [picture.frames[0] for picture in lesson.question.pictures]
    logits, tokens = logits_of(judge, f"{before}The candidate is vivid. Verdict:", images)
    count = lesson.taught
    spoken = F.cross_entropy(logits[-count - 1 : -1], tokens[-count:])
    verdict = -F.log_softmax(logits[-1], -1)[list(answers.yes)].logsumexp(0)
    torch.testing.assert_close(student([lesson])[0].double(), verdict + 0.3 * spoken, rtol=1e-4, atol=1e-4)


def test_lessons_in_one_batch_cost_what_they_do_alone(judge, lessons):
    student = GenerativeStudent(judge.backbone, checkpointing=False, rationales=0.3)
    weighed = [Lesson(item.question, item.taught, item.yes, 0.5 + number) for number, item in enumerate(lessons)]
    alone = sum(student([lesson])[0] for lesson in weighed)
    torch.testing.assert_close(student(weighed)[0], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["generative", "bradley-terry"])
def test_the_gradient_is_that_of_finite_differences_in_float64(judge, lessons, kind):
    model = copy.deepcopy(judge.model).double().requires_grad_(False)
    doubled = RewardModel(model, judge.processor, "doubled")
    if kind == "generative":
        student = GenerativeStudent(doubled.backbone, checkpointing=False, rationales=0.3)
        weight = model.base_model.language_model.layers[0].self_attn.v_proj.weight.requires_grad_(True)
    else:
        student = BradleyTerryStudent(doubled.backbone, checkpointing=False)
        student.head.weight.data = torch.randn(len(student.head.weight), dtype=torch.float64)
        weight = student.head.weight
        lessons = [lesson for lesson in lessons if not lesson.taught]
    (gradient,) = torch.autograd.grad(student(lessons)[0], weight)
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = 1e-4
    with torch.no_grad():
        weight += step * direction
        up = student(lessons)[0]
        weight -= 2 * step * direction
        down = student(lessons)[0]
    assert float((up - down) / (2 * step)) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_checkpointing_changes_nothing_but_memory(judge, lessons):
    judge.model.requires_grad_(True)
    gradients = []
    for checkpointing in (False, True):
        judge.model.zero_grad()
        GenerativeStudent(judge.backbone, checkpointing, rationales=0.3)(lessons)[0].backward()
        gradients.append(
            {name: item.grad.clone() for name, item in judge.model.named_parameters() if item.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-4, atol=1e-5)


def test_bradley_terry_is_the_logistic_loss_of_the_difference(judge, lessons):
    student = BradleyTerryStudent(judge.backbone, checkpointing=False)
    pair = [lesson for lesson in lessons if not lesson.taught][:2]
    assert student(pair)[0].item() == pytest.approx(2 * np.log(2)), "all rewards are alike at the start"
    student.head.weight.data = torch.randn(len(student.head.weight), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, ends, _ = student.read(pair)
        first, second = (float(value) for value in ends @ student.head.weight)
        sign = 1 if pair[0].yes else -1
        assert float(student(pair)[0]) == pytest.approx(2 * np.log1p(np.exp(-sign * (first - second))), rel=1e-4)


def test_a_tie_costs_least_where_both_answers_are_alike(judge, lessons):
    student = GenerativeStudent(judge.backbone, checkpointing=False, rationales=0.0)
    question = lessons[0].question
    yes, no, tie = (float(student([Lesson(question, 0, value, 1.0)])[0]) for value in (1.0, 0.0, 0.5))
    assert tie == pytest.approx((yes + no) / 2)
    assert isinstance(lessons[0].question.pictures[0].frames[0], Image.Image)
