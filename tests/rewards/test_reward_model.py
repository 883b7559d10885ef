from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.errors import Cancelled, ImageError, InstructionError, PromptTextError
from diffusers_ext.rewards.instructions import PRESETS, Example, Instruction
from diffusers_ext.rewards.model import RewardModel

PROMPT = "a red star"
LONG_PROMPT = (
    "two big blue squares to the left of a small green circle on a white ground, painted by nobody in particular"
)
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def pointwise_text(instruction, prompt, ending="Answer yes or no."):
    asked = f"Judged by this instruction, is the candidate good? {ending}"
    return TURN.format(f"{instruction.text}\nPrompt: {prompt}\n{asked}\nCandidate:<image>\nPrompt: {prompt}")


def pairwise_text(instruction, prompt):
    asked = "Judged by this instruction, is the candidate better than the reference? Answer yes or no."
    shown = "Reference:<image>\nCandidate:<image>"
    return TURN.format(f"{instruction.text}\nPrompt: {prompt}\n{asked}\n{shown}\nPrompt: {prompt}")


class Reference:
    """The same network in float64, one question at a time, its inputs made by hand and all of its logits computed."""

    def __init__(self, judge):
        self.tokenizer = judge.tokenizer
        self.network = copy.deepcopy(judge.model).double()

    def inputs(self, text, images):
        text = text.replace("<image>", "<img>" + 16 * "<IMG_CONTEXT>" + "</img>")
        samples = np.stack([np.asarray(image, dtype=np.float64) for image in images])
        tokens = torch.tensor([self.tokenizer(text).input_ids])
        return {"input_ids": tokens, "pixel_values": torch.from_numpy(samples / 127.5 - 1.0).permute(0, 3, 1, 2)}

    @torch.inference_mode()
    def log_probabilities(self, text, images):
        return self.network(**self.inputs(text, images)).logits[0, -1].log_softmax(-1)

    def log_odds(self, text, images):
        found = self.log_probabilities(text, images)
        words = [self.tokenizer.decode([number]).strip(" ").lower() for number in range(len(found))]
        yes, no = (
            torch.logsumexp(found[[number for number, word in enumerate(words) if word == answer]], 0)
            for answer in ("yes", "no")
        )
        return float(yes - no)

    def greedy(self, text, images, count):
        written = []
        while len(written) < count:
            number = int(self.log_probabilities(text + self.tokenizer.decode(written), images).argmax())
            written.append(number)
            if number == self.tokenizer.eos_token_id:
                break
        return self.tokenizer.decode(written, skip_special_tokens=True)


@pytest.fixture(scope="module")
def reference(untrained_judge):
    return Reference(untrained_judge)


def values(judgements):
    return [judgement.log_odds for judgement in judgements]


def with_config(judge, **settings):
    return RewardModel(judge.model, judge.processor, "other", RewardConfig(**settings))


def test_the_untrained_judge_tells_pictures_prompts_and_orders_apart(untrained_judge, pictures):
    found = values(untrained_judge.score(pictures, PROMPT)) + values(untrained_judge.score(pictures, LONG_PROMPT))
    found += values(untrained_judge.compare(pictures[1:], pictures[0], PROMPT, debias=False))
    gaps = np.diff(sorted(found))
    assert np.isfinite(found).all()
    assert np.median(gaps) > 1e-3  # so that the tolerances below mean something


@pytest.mark.parametrize("name", ["overall", "alignment"])
def test_score_is_the_log_odds_of_the_whole_network(untrained_judge, reference, pictures, name):
    expected = [reference.log_odds(pointwise_text(PRESETS[name], PROMPT), [picture]) for picture in pictures[:3]]
    assert values(untrained_judge.score(pictures[:3], PROMPT, name)) == pytest.approx(expected, abs=1e-4)


def test_compare_shows_the_reference_first(untrained_judge, reference, pictures):
    text = pairwise_text(PRESETS["overall"], PROMPT)
    expected = [reference.log_odds(text, [pictures[0], candidate]) for candidate in pictures[1:4]]
    found = untrained_judge.compare(pictures[1:4], pictures[0], PROMPT, debias=False)
    assert values(found) == pytest.approx(expected, abs=1e-4)


def test_the_judge_agrees_with_transformers_own_logits(untrained_judge, pictures):
    text = pointwise_text(PRESETS["overall"], PROMPT).replace("<image>", "<IMG_CONTEXT>")
    inputs = untrained_judge.processor(images=[pictures[0]], text=[text], return_tensors="pt")
    with torch.inference_mode():
        found = untrained_judge.model(**inputs).logits[:, -1].double().log_softmax(-1)[0]
    yes, no = (
        found[list(group)].exp().sum()
        for group in (untrained_judge.backbone.answers.yes, untrained_judge.backbone.answers.no)
    )
    assert untrained_judge.score(pictures[0], PROMPT)[0].log_odds == pytest.approx(math.log(yes / no), abs=1e-4)


def test_a_batch_gives_what_its_members_give_alone(untrained_judge, pictures):
    together = values(untrained_judge.score(pictures, PROMPT))
    assert together == pytest.approx(values(untrained_judge.score(pictures, PROMPT, batch_size=1)), abs=1e-4)
    alone = [untrained_judge.score(picture, PROMPT)[0].log_odds for picture in pictures]
    assert together == pytest.approx(alone, abs=1e-4)


def test_padding_changes_nothing(untrained_judge, pictures):
    asked = [PROMPT, LONG_PROMPT, "x", LONG_PROMPT + " and then some more of it", PROMPT, "a star"]
    padded = values(untrained_judge.score(pictures, asked))
    alone = [untrained_judge.score(picture, text)[0].log_odds for picture, text in zip(pictures, asked, strict=True)]
    assert padded == pytest.approx(alone, abs=1e-4)
    padded = values(untrained_judge.compare(pictures, pictures[::-1], asked))
    alone = [
        untrained_judge.compare(first, second, text)[0].log_odds
        for first, second, text in zip(pictures, pictures[::-1], asked, strict=True)
    ]
    assert padded == pytest.approx(alone, abs=1e-4)


def test_pictures_paths_and_tensors_are_judged_alike(untrained_judge, pictures, picture_files):
    tensors = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures]
    expected = values(untrained_judge.score(pictures, PROMPT))
    for same in (picture_files, [str(file) for file in picture_files], tensors, torch.stack(tensors)):
        assert values(untrained_judge.score(same, PROMPT)) == expected


def test_pictures_of_other_sizes_and_shapes_can_be_judged(untrained_judge, pictures):
    odd = [pictures[0].resize(size) for size in ((1, 1), (200, 64), (33, 70))]
    assert np.isfinite(values(untrained_judge.score(odd, PROMPT))).all()


def test_debiased_comparison_is_antisymmetric(untrained_judge, pictures):
    there = untrained_judge.compare(pictures[:3], pictures[3:], PROMPT)
    back = untrained_judge.compare(pictures[3:], pictures[:3], PROMPT)
    for one, other in zip(there, back, strict=True):
        assert one.debiased
        assert one.log_odds == pytest.approx(-other.log_odds, abs=1e-6)
        assert one.reward + other.reward == pytest.approx(1.0, abs=1e-6)


def test_a_picture_is_exactly_as_good_as_itself(untrained_judge, pictures):
    (judgement,) = untrained_judge.compare(pictures[0], pictures[0], PROMPT)
    assert judgement.log_odds == pytest.approx(0.0, abs=1e-6)
    assert judgement.reward == pytest.approx(0.5, abs=1e-6)


def test_debiasing_averages_both_orders(untrained_judge, pictures):
    there = values(untrained_judge.compare(pictures[:3], pictures[3:], PROMPT, debias=False))
    back = values(untrained_judge.compare(pictures[3:], pictures[:3], PROMPT, debias=False))
    expected = [(one - other) / 2 for one, other in zip(there, back, strict=True)]
    assert values(untrained_judge.compare(pictures[:3], pictures[3:], PROMPT)) == pytest.approx(expected, abs=1e-4)
    assert max(abs(one + other) for one, other in zip(there, back, strict=True)) > 1e-2  # it does have a bias


def test_judgements_say_what_they_are_about(untrained_judge, pictures):
    scored = untrained_judge.score(pictures[:2], PROMPT, "alignment")
    assert [(item.candidate, item.reference, item.debiased) for item in scored] == [(0, None, False), (1, None, False)]
    assert {(item.instruction, item.criteria, item.explanation) for item in scored} == {
        ("alignment", ("alignment",), None)
    }
    one_for_all = untrained_judge.compare(pictures[:2], pictures[2], PROMPT)
    assert [(item.candidate, item.reference) for item in one_for_all] == [(0, 0), (1, 0)]
    one_each = untrained_judge.compare(pictures[:2], pictures[2:4], PROMPT, debias=False)
    assert [(item.candidate, item.reference, item.debiased) for item in one_each] == [(0, 0, False), (1, 1, False)]


def test_temperatures_divide_the_log_odds(untrained_judge, pictures):
    sharp = with_config(untrained_judge, max_new_tokens=2)
    soft = with_config(
        untrained_judge, temperature=2.0, pointwise_temperature=4.0, cot_temperature=8.0, max_new_tokens=2
    )
    for kind, factor in (("score", 4.0), ("compare", 2.0), ("explain", 8.0)):
        found = []
        for judge in (sharp, soft):
            if kind == "score":
                found.append(judge.score(pictures[0], PROMPT)[0].log_odds)
            else:
                explained = judge.compare(pictures[0], pictures[1], PROMPT, explain=kind == "explain")
                found.append(explained[0].log_odds)
        assert found[0] == pytest.approx(factor * found[1], rel=1e-5)


def test_an_explanation_is_what_greedy_decoding_writes_and_the_verdict_follows_it(untrained_judge, reference, pictures):
    judge = with_config(untrained_judge, max_new_tokens=5)
    text = pointwise_text(PRESETS["overall"], PROMPT, "Explain, then answer yes or no.")
    for picture, judgement in zip(pictures[:2], judge.score(pictures[:2], PROMPT, explain=True), strict=True):
        assert judgement.explanation == reference.greedy(text, [picture], 5).strip()
        said = f"{text}{judgement.explanation} Verdict:"
        assert judgement.log_odds == pytest.approx(reference.log_odds(said, [picture]), abs=1e-4)


def test_explained_comparisons_of_different_lengths_are_finite_and_antisymmetric(untrained_judge, pictures):
    judge = with_config(untrained_judge, max_new_tokens=4)
    there = judge.compare(pictures[:2], pictures[2:4], [PROMPT, LONG_PROMPT], explain=True)
    back = judge.compare(pictures[2:4], pictures[:2], [PROMPT, LONG_PROMPT], explain=True)
    for one, other in zip(there, back, strict=True):
        assert isinstance(one.explanation, str)
        assert math.isfinite(one.log_odds)
        assert one.log_odds == pytest.approx(-other.log_odds, abs=1e-4)


def test_examples_are_shown_before_the_question_in_order(untrained_judge, reference, pictures, picture_files):
    shown = Instruction(
        "shown",
        "Judge the picture.",
        ("all",),
        examples=(
            Example("a blue circle", picture_files[0], True, picture_files[1]),
            Example("a green square", picture_files[2], False),
        ),
    )
    first = pairwise_text(shown, "a blue circle") + "yes<|im_end|>\n"
    second = pointwise_text(shown, "a green square") + "no<|im_end|>\n"
    earlier = [pictures[1], pictures[0], pictures[2]]
    expected = reference.log_odds(first + second + pairwise_text(shown, PROMPT), [*earlier, pictures[4], pictures[3]])
    found = untrained_judge.compare(pictures[3], pictures[4], PROMPT, shown, debias=False)
    assert values(found) == pytest.approx([expected], abs=1e-4)
    expected = reference.log_odds(first + second + pointwise_text(shown, PROMPT), [*earlier, pictures[3]])
    assert values(untrained_judge.score(pictures[3], PROMPT, shown)) == pytest.approx([expected], abs=1e-4)
    bare = Instruction("bare", shown.text, shown.criteria)
    assert abs(untrained_judge.score(pictures[3], PROMPT, bare)[0].log_odds - expected) > 1e-3


@pytest.mark.parametrize("explain", [False, True])
def test_cancelling_stops_between_batches(untrained_judge, pictures, explain):
    judge = with_config(untrained_judge, max_new_tokens=1)
    answers = iter([False, False, True])
    with pytest.raises(Cancelled, match="after 2 of 6"):
        judge.score(pictures, PROMPT, explain=explain, batch_size=1, cancel=lambda: next(answers))
    with pytest.raises(Cancelled, match="after 0 of 4"):
        judge.compare(pictures[:2], pictures[2], PROMPT, explain=explain, cancel=lambda: True)
    assert len(judge.score(pictures[:1], PROMPT, cancel=lambda: False)) == 1


@pytest.mark.parametrize("prompt", ["", "  \n", [PROMPT, ""], [PROMPT], [PROMPT] * 3, []])
def test_prompts_that_are_empty_or_of_the_wrong_number_are_refused(untrained_judge, pictures, prompt):
    with pytest.raises(PromptTextError):
        untrained_judge.score(pictures[:2], prompt)
    with pytest.raises(PromptTextError):
        untrained_judge.compare(pictures[:2], pictures[2], prompt)


def test_a_prompt_that_holds_the_models_own_control_tokens_is_refused(untrained_judge, pictures):
    with pytest.raises(PromptTextError, match="IMG_CONTEXT"):
        untrained_judge.score(pictures[0], "a <IMG_CONTEXT> star")


def test_prompts_in_any_script_and_of_any_length_can_be_judged(untrained_judge, pictures):
    asked = ["ein schöner Stern", "一颗红星", "🌟 " * 50]
    assert np.isfinite(values(untrained_judge.score(pictures[:3], asked))).all()


def test_the_wrong_number_of_references_is_refused(untrained_judge, pictures):
    with pytest.raises(ImageError, match="2 references for 3 candidates"):
        untrained_judge.compare(pictures[:3], pictures[:2], PROMPT)


def test_a_bad_picture_or_instruction_is_refused(untrained_judge, pictures, tmp_path):
    with pytest.raises(ImageError, match=r"lost\.png"):
        untrained_judge.score([pictures[0], tmp_path / "lost.png"], PROMPT)
    with pytest.raises(ImageError, match="no pictures"):
        untrained_judge.compare([], pictures[0], PROMPT)
    with pytest.raises(InstructionError, match="Did you mean 'overall'"):
        untrained_judge.score(pictures[0], PROMPT, "overal")


@pytest.mark.parametrize("batch_size", [-1, 0])
def test_no_batch_size_makes_judgements_vanish(untrained_judge, pictures, batch_size):
    try:
        found = untrained_judge.score(pictures[:2], PROMPT, batch_size=batch_size)
    except ValueError:
        return
    assert len(found) == 2


def test_four_threads_get_what_one_gets(untrained_model_folder, pictures):
    # In float64, since threads are batched as they come, and float32 rounds differently in batches of other sizes.
    judge = RewardModel.from_pretrained(untrained_model_folder, device="cpu", dtype=torch.float64)
    asked = [PROMPT, LONG_PROMPT, "a star", "a blue circle"]
    serial = [values(judge.score(pictures, text)) for text in asked]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: values(judge.score(pictures, text)), asked * 3))
    for index, result in enumerate(found):
        assert result == pytest.approx(serial[index % 4], abs=1e-6)


def test_judging_leaves_no_trace_in_the_random_state_or_the_gradients(untrained_judge, pictures):
    before = torch.get_rng_state()
    untrained_judge.score(pictures[:2], PROMPT)
    assert torch.equal(before, torch.get_rng_state())
    assert not untrained_judge.model.training
    assert all(parameter.grad is None for parameter in untrained_judge.model.parameters())
