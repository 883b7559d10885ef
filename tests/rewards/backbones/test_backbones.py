from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.rewards import prompts
from diffusers_ext.rewards.backbones import BACKBONES, backbone_type
from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.instructions import PRESETS, Example, Instruction
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.prompts import RERANKER_SYSTEM

PROMPT = "a red star"


class Reference:
    """transformers' own network in float64 on its own processor's output, one question at a time, all logits."""

    def __init__(self, judge):
        self.processor = judge.processor
        self.network = copy.deepcopy(judge.model).double()

    @torch.inference_mode()
    def log_odds(self, messages, images):
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(images=images, text=[text], return_tensors="pt")
        inputs.pop("num_patches", None)
        logits = self.network(**inputs).logits[0, -1].log_softmax(-1)
        words = [self.processor.tokenizer.decode([number]).strip(" ").lower() for number in range(len(logits))]
        yes, no = (
            torch.logsumexp(logits[[number for number, word in enumerate(words) if word == answer]], 0)
            for answer in ("yes", "no")
        )
        return float(yes - no)


def asked(by="overall", pairwise=False, explain=False):
    return prompts.question(PRESETS[by], PROMPT, pairwise=pairwise, explain=explain)


def values(judgements):
    return [judgement.log_odds for judgement in judgements]


def test_score_is_what_transformers_makes_of_its_own_processors_output(judge, sized_pictures):
    reference = Reference(judge)
    expected = [reference.log_odds(asked(), [picture]) for picture in sized_pictures]
    assert values(judge.score(sized_pictures, PROMPT)) == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 1e-2


def test_compare_is_too_in_both_orders_and_with_pictures_of_other_sizes(judge, sized_pictures):
    reference = Reference(judge)
    first, *others = sized_pictures
    there = [reference.log_odds(asked(pairwise=True), [first, other]) for other in others]
    back = [reference.log_odds(asked(pairwise=True), [other, first]) for other in others]
    assert values(judge.compare(others, first, PROMPT, debias=False)) == pytest.approx(there, abs=1e-4)
    half = (np.array(there) - np.array(back)) / 2
    assert values(judge.compare(others, first, PROMPT)) == pytest.approx(half, abs=1e-4)


def test_pixels_are_those_of_the_processor_whatever_sizes_come_together(judge):
    rng = np.random.default_rng(3)
    sizes = [(56, 56), (120, 60), (33, 47), (56, 56), (200, 90), (120, 60)]
    pictures = [Image.fromarray(rng.integers(0, 256, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]
    inputs = judge.processor(images=pictures, text=[judge.processor.image_token] * 6, padding=True, return_tensors="pt")
    found = judge.backbone.pixels(pictures)
    assert torch.equal(found.values, inputs["pixel_values"])
    tokens = (inputs["input_ids"] == judge.model.config.image_token_id).sum(1).tolist()
    assert [len(sight) for sight in judge.backbone.look(found)] == tokens
    if found.grid is not None:
        assert torch.equal(found.grid, inputs["image_grid_thw"])


def test_examples_come_first(judge, sized_pictures, tmp_path):
    for index, picture in enumerate(sized_pictures[:3]):
        picture.save(tmp_path / f"{index}.png")
    first, second, third = (tmp_path / f"{index}.png" for index in range(3))
    examples = (Example("a blue circle", first, True, second), Example("a star", third, False))
    by = Instruction("shown", "Judge the picture.", ("all",), examples=examples)
    messages = prompts.question(by, PROMPT, pairwise=True, explain=False)
    shown = [sized_pictures[1], sized_pictures[0], sized_pictures[2], sized_pictures[4], sized_pictures[3]]
    expected = Reference(judge).log_odds(messages, shown)
    found = judge.compare(sized_pictures[3], sized_pictures[4], PROMPT, by, debias=False)
    assert values(found) == pytest.approx([expected], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_sharing_and_batching_change_nothing(judge, sized_pictures, batch_size):
    pairs = [(one, other) for one in sized_pictures for other in sized_pictures if one is not other]
    alone = [judge.compare(one, other, PROMPT, debias=False)[0].log_odds for one, other in pairs[::4]]
    candidates, references = zip(*pairs, strict=True)
    together = judge.compare(candidates, references, PROMPT, debias=False, batch_size=batch_size)
    assert values(together)[::4] == pytest.approx(alone, abs=1e-4)


def test_a_picture_passes_through_the_vision_tower_once(judge, sized_pictures, monkeypatch):
    seen = []
    look = judge.backbone.look
    monkeypatch.setattr(judge.backbone, "look", lambda pixels: seen.append(len(pixels.rows)) or look(pixels))
    pairs = [(one, other) for one in sized_pictures for other in sized_pictures]
    candidates, references = zip(*pairs, strict=True)
    judge.compare(candidates, references, PROMPT, batch_size=7)
    assert sum(seen) == len(sized_pictures)
    seen.clear()
    with judge.remembering():
        for picture in sized_pictures[1:]:
            judge.compare(picture, sized_pictures[0], PROMPT)
    assert sum(seen) == len(sized_pictures)


def test_what_is_shared_is_read_once(judge, sized_pictures, monkeypatch):
    read = []
    run = judge.backbone.read

    def counted(embeddings, positions, mask, cache, shown):
        own = torch.ones(embeddings.shape[:2]) if mask is None else mask[:, -embeddings.shape[1] :]
        read.append(int(own.sum()))
        return run(embeddings, positions, mask, cache, shown)

    monkeypatch.setattr(judge.backbone, "read", counted)
    first, *others = (sized_pictures[0].rotate(angle) for angle in (0, 90, 180, 270))
    judge.compare(others, first, PROMPT, debias=False)
    text = judge.backbone.question(PRESETS["overall"], PROMPT, pairwise=True, explain=False)
    before, between, after = (len(piece) for piece in judge.backbone.pieces(text))
    (sight,) = judge.backbone.look(judge.backbone.pixels([first]))
    assert sum(read) == before + len(sight) + between + len(others) * (len(sight) + after)


def test_explanations_are_what_generate_writes(judge, sized_pictures):
    brief = RewardModel(judge.model, judge.processor, "brief", RewardConfig(max_new_tokens=6))
    messages = asked(explain=True)
    text = judge.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    found = brief.score(sized_pictures[:3], PROMPT, explain=True)
    for picture, judgement in zip(sized_pictures[:3], found, strict=True):
        inputs = judge.processor(images=[picture], text=[text], return_tensors="pt")
        inputs.pop("num_patches", None)
        written = judge.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        said = judge.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert judgement.explanation == said.split("Verdict:")[0].strip()
        assert np.isfinite(judgement.log_odds)


def test_the_reranker_is_asked_in_its_own_words(reranker, sized_pictures):
    judge = reranker
    by = PRESETS["alignment"]
    vision = "<|vision_start|><|image_pad|><|vision_end|>"
    text = (
        f"<|im_start|>system\n{RERANKER_SYSTEM}<|im_end|>\n<|im_start|>user\n<Instruct>: {by.text}<Query>:{PROMPT}\n"
        f"<Document>:{vision}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert judge.backbone.question(by, PROMPT, pairwise=False, explain=False) == text
    inputs = judge.processor(images=[sized_pictures[1]], text=[text], return_tensors="pt")
    with torch.inference_mode():
        logits = copy.deepcopy(judge.model).double()(**inputs).logits[0, -1]
    yes, no = (judge.tokenizer.get_vocab()[word] for word in ("yes", "no"))
    expected = float(logits[yes] - logits[no])
    assert values(judge.score(sized_pictures[1], PROMPT, by)) == pytest.approx([expected], abs=1e-4)


def test_what_the_reranker_cannot_do_is_refused(reranker, sized_pictures):
    with pytest.raises(ModelError, match="pointwise"):
        reranker.compare(sized_pictures[0], sized_pictures[1], PROMPT)
    with pytest.raises(ModelError, match="at once"):
        reranker.score(sized_pictures[0], PROMPT, explain=True)


def test_the_backbone_is_chosen_by_the_config_and_the_rerankers_name():
    assert {backbone_type(kind, "some").__name__ for kind in BACKBONES if "reranker" not in kind} == {
        "InternVL",
        "Qwen25VL",
        "Qwen3VL",
    }
    assert backbone_type("qwen3_vl", "Qwen3-VL-Reranker-2B").__name__ == "Qwen3VLReranker"
    with pytest.raises(ModelError, match=r"'llava'.*InternVL.*Qwen2\.5-VL.*Qwen3-VL"):
        backbone_type("llava", "llava-hf/llava")
