from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diffusers_ext.nano.packing import IGNORED, Branch, Picture, Row, hidden_states, loss, pack, pack_by_length
from diffusers_ext.nano.preferences import INSTRUCTIONS, caption, marks, preferred, rationale, sample_group, statements
from diffusers_ext.nano.reward_model import CHECK, DESCRIBE, TOKENS_PER_IMAGE
from diffusers_ext.nano.scenes import PROMPT_KINDS, all_prompts
from diffusers_ext.nano.train_reward import RewardRecipe, Writer, lesson_rows, pixel_values
from diffusers_ext.rewards.instructions import PRESETS, Instruction
from diffusers_ext.rewards.prompts import IMAGE, VERDICT, question


@pytest.fixture(scope="module")
def writer(nano_tokenizer):
    return Writer(nano_tokenizer)


@pytest.fixture(scope="module")
def group():
    return sample_group(np.random.default_rng(3))


@pytest.fixture(scope="module")
def images(group):
    return [Image.fromarray(picture.pixels) for picture in group.pictures]


@pytest.fixture(scope="module")
def features(nano_judge, group):
    with torch.inference_mode():
        return nano_judge.model.get_image_features(pixel_values([group]), return_dict=True).pooler_output


def packed(writer, *rows):
    return pack(rows, writer.frame, TOKENS_PER_IMAGE, writer.tokenizer.pad_token_id)


def encoded(judge, messages, pictures, answer=""):
    """What transformers makes of a question: the real chat template and the real processor."""
    text = judge.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return judge.processor(text=[text + answer], images=pictures, return_tensors="pt")


def on_picture(text):
    return [{"role": "user", "content": [{"type": "text", "text": f"{text}\n"}, IMAGE]}]


def spans(columns, prefix):
    """Where each branch of a packed row of one row begins and ends: positions start over after the prefix."""
    positions = columns.positions[0].tolist()
    starts = [place for place in range(prefix, len(positions)) if positions[place] == prefix]
    return list(zip(starts, [*starts[1:], len(positions)], strict=True))


def test_pictures_are_given_to_the_model_as_the_processor_gives_them(nano_judge, group, images):
    found = nano_judge.processor(text=["<IMG_CONTEXT>"] * 6, images=images, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values([group]), found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("reference", [None, 2])
def test_tokens_of_a_judgement_are_those_of_the_processor(nano_judge, writer, group, images, instruction, reference):
    row = writer.judgement_row(instruction, group.spec, reference, [(0, True)])
    messages = question(PRESETS[instruction], group.spec.text, pairwise=reference is not None, explain=False)
    shown = [images[0]] if reference is None else [images[reference], images[0]]
    columns = packed(writer, row)
    assert columns.tokens[0].tolist() == encoded(nano_judge, messages, shown).input_ids[0].tolist()
    assert columns.pictures.tolist() == ([0] if reference is None else [reference, 0])
    assert columns.targets[0, -1] == nano_judge.tokenizer("yes").input_ids[0]
    assert (columns.targets[0, :-1] == IGNORED).all()


@pytest.mark.parametrize("reference", [None, 4])
def test_tokens_of_a_rationale_are_those_of_the_processor(nano_judge, writer, group, images, reference):
    other = None if reference is None else group.pictures[reference]
    text = rationale("overall", group.spec, group.pictures[1], other)
    row = writer.rationale_row("overall", group.spec, reference, [(1, text, False)], 0.1)
    messages = question(PRESETS["overall"], group.spec.text, pairwise=other is not None, explain=True)
    shown = [images[1]] if reference is None else [images[reference], images[1]]
    columns = packed(writer, row)
    alone = encoded(nano_judge, messages, shown, f"{text} {VERDICT} no<|im_end|>").input_ids[0].tolist()
    assert [*columns.tokens[0].tolist(), nano_judge.tokenizer.eos_token_id] == alone
    taught = columns.targets[0] != IGNORED
    assert columns.targets[0][taught].tolist() == alone[-int(taught.sum()) :]
    assert columns.weights[0][taught].tolist()[-2:] == pytest.approx([1.0, 0.1])
    assert set(np.round(columns.weights[0][taught][:-2].tolist(), 6)) == {0.1}


def test_tokens_of_captions_and_statements_are_those_of_the_processor(nano_judge, writer, group, images):
    text = caption(group.pictures[5])
    columns = packed(writer, writer.caption_row([(5, text)], 0.2))
    alone = encoded(nano_judge, on_picture(DESCRIBE), images[5:], f"{text}<|im_end|>").input_ids[0].tolist()
    assert [*columns.tokens[0].tolist(), columns.targets[0, -1].item()] == alone
    said = statements(np.random.default_rng(1), group.pictures[5], 4)
    columns = packed(writer, writer.statement_row([(5, said)], 0.5))
    text = ",".join(f" {words}: {'yes' if true else 'no'}" for words, true in said)
    alone = encoded(nano_judge, on_picture(CHECK), images[5:], text).input_ids[0].tolist()
    assert [*columns.tokens[0].tolist(), columns.targets[0, -1].item()] == alone
    weighed = columns.weights[0] > 0
    assert columns.targets[0][weighed].tolist() == [
        nano_judge.tokenizer(" yes" if true else " no").input_ids[0] for _, true in said
    ]


@pytest.mark.parametrize("reference", [None, 3])
def test_tokens_of_what_is_asked_before_pictures_are_those_of_the_processor(
    nano_judge, writer, group, images, reference
):
    row = writer.asked_row("a red star", reference, [(0, True), (4, False)], 0.7)
    columns = packed(writer, row)
    prefix = len(row.prefix) + (0 if reference is None else TOKENS_PER_IMAGE + 1)
    (first, after), (second, end) = spans(columns, prefix)
    tokens = columns.tokens[0].tolist()
    checking = Instruction("checking", CHECK, ())
    messages = question(checking, "a red star", pairwise=reference is not None, explain=False)
    shown = [] if reference is None else [images[reference]]
    for begin, stop, index in ((first, after, 0), (second, end, 4)):
        alone = encoded(nano_judge, messages, [*shown, images[index]]).input_ids[0].tolist()
        assert tokens[:prefix] + tokens[begin:stop] == alone
    assert columns.chosen[0].tolist() == [nano_judge.tokenizer(word).input_ids[0] for word in ("yes", "no")]
    assert columns.chosen[1].tolist() == pytest.approx([0.7, 0.7])
    assert columns.pictures.tolist() == ([0, 4] if reference is None else [reference, 0, 4])


@pytest.mark.parametrize("reference", [None, 3])
def test_packed_questions_are_answered_as_alone(nano_judge, writer, group, images, features, reference):
    others = [index for index in range(6) if index != reference]
    row = writer.judgement_row("alignment", group.spec, reference, [(index, True) for index in others])
    filler = writer.caption_row([(0, caption(group.pictures[0])), (1, "red star; whole.")], 1.0)
    columns = packed(writer, filler, row)
    with torch.inference_mode():
        hidden = hidden_states(nano_judge.model, columns, features)
        asked = columns.targets[1] != IGNORED
        logits = nano_judge.model.lm_head(hidden[1][asked])
    assert len(logits) == len(others)
    messages = question(PRESETS["alignment"], group.spec.text, pairwise=reference is not None, explain=False)
    for index, found, state in zip(others, logits, hidden[1][asked], strict=True):
        shown = [images[index]] if reference is None else [images[reference], images[index]]
        with torch.inference_mode():
            alone = nano_judge.model(**encoded(nano_judge, messages, shown), output_hidden_states=True)
        torch.testing.assert_close(found, alone.logits[0, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(state, alone.hidden_states[-1][0, -1], atol=1e-4, rtol=1e-4)
    tokens = nano_judge.backbone.answers
    odds = logits[:, list(tokens.yes)].logsumexp(1) - logits[:, list(tokens.no)].logsumexp(1)
    if reference is None:
        judged = nano_judge.score([images[index] for index in others], group.spec.text, "alignment")
    else:
        chosen = [images[index] for index in others]
        judged = nano_judge.compare(chosen, images[reference], group.spec.text, "alignment", debias=False)
    assert odds.tolist() == pytest.approx([judgement.log_odds for judgement in judged], abs=1e-4)
    assert odds.std() > 1e-2


def test_every_token_of_a_packed_rationale_is_predicted_as_alone(nano_judge, writer, group, images, features):
    reasons = [
        (index, rationale("overall", group.spec, group.pictures[index], group.pictures[0]), True) for index in (1, 2)
    ]
    row = writer.rationale_row("overall", group.spec, 0, reasons, 0.1)
    columns = packed(writer, row)
    with torch.inference_mode():
        logits = nano_judge.model.lm_head(hidden_states(nano_judge.model, columns, features))[0]
    messages = question(PRESETS["overall"], group.spec.text, pairwise=True, explain=True)
    prefix = len(row.prefix) + TOKENS_PER_IMAGE + 1
    for (first, last), (index, text, _) in zip(spans(columns, prefix), reasons, strict=True):
        with torch.inference_mode():
            inputs = encoded(nano_judge, messages, [images[0], images[index]], f"{text} {VERDICT} yes")
            alone = nano_judge.model(**inputs).logits[0]
        assert columns.tokens[0, first:last].tolist() == inputs.input_ids[0, prefix:].tolist()
        torch.testing.assert_close(logits[first:last], alone[prefix:], atol=1e-3, rtol=1e-3)


def rows_of(writer, recipe, seed=5):
    rng = np.random.default_rng(seed)
    groups = [sample_group(rng) for _ in range(2)]
    return groups, lesson_rows(writer, rng, recipe.steps, recipe, groups)


@pytest.mark.parametrize("batches", [2, 3, 50])
def test_batches_by_length_cost_the_same_as_one(nano_judge, writer, batches):
    groups, rows = rows_of(writer, RewardRecipe())
    model = nano_judge.model
    with torch.inference_mode():
        features = model.get_image_features(pixel_values(groups), return_dict=True).pooler_output
        whole, right = loss(model, [packed(writer, *rows)], features)
        parts = pack_by_length(rows, writer.frame, TOKENS_PER_IMAGE, writer.tokenizer.pad_token_id, batches)
        value, other = loss(model, parts, features)
    assert len(parts) == min(batches, len(rows))
    assert float(value) == pytest.approx(float(whole), rel=1e-5)
    assert int(right.sum()) == int(other.sum()) and len(right) == len(other)
    assert sum(part.tokens.numel() for part in parts) <= packed(writer, *rows).tokens.numel()
    assert sum(len(part.tokens) for part in parts) == len(rows)


def test_the_loss_is_the_weighted_mean_of_cross_entropies(nano_judge, writer):
    groups, rows = rows_of(writer, RewardRecipe(), seed=6)
    model = nano_judge.model
    with torch.inference_mode():
        features = model.get_image_features(pixel_values(groups), return_dict=True).pooler_output
        columns = packed(writer, *rows)
        value, right = loss(model, [columns], features)
        logits = model.lm_head(hidden_states(model, columns, features))
        costs = F.cross_entropy(logits.transpose(1, 2), columns.targets, ignore_index=IGNORED, reduction="none")
    expected = (costs * columns.weights).sum() / columns.weights.sum()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    chosen = columns.targets != IGNORED
    assert torch.equal(right, (logits.argmax(-1) == columns.targets)[chosen])


def test_a_layout_by_hand():
    row = Row((1, Picture(7)), (Branch((2, 3), (4, 5), (0.5, 1.0)), Branch((6,), (8,), (2.0,))))
    found = pack([row, Row((1,), (Branch((2,), (3,), (1.0,)),))], frame=(90, 91, 92), tokens_per_picture=2, pad=0)
    assert found.tokens.tolist() == [[1, 90, 91, 91, 92, 2, 3, 4, 6], [1, 2, 0, 0, 0, 0, 0, 0, 0]]
    assert found.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5]
    assert found.positions[1, :2].tolist() == [0, 1]
    assert found.pictures.tolist() == [7]
    skip = IGNORED
    assert found.targets.tolist() == [[skip] * 6 + [4, 5, 8], [skip, 3] + [skip] * 7]
    assert found.weights.tolist() == [[0.0] * 6 + [0.5, 1.0, 2.0], [0.0, 1.0] + [0.0] * 7]
    sees = found.mask[0, 0]
    assert sees[4].tolist() == [True] * 5 + [False] * 4
    assert sees[7].tolist() == [True] * 8 + [False]
    assert sees[8].tolist() == [True] * 5 + [False] * 3 + [True]
    assert found.mask.any(-1).all()


def test_verdicts_that_are_taught_are_the_truth(writer, group):
    """Read off the rows' tokens alone."""
    rng = np.random.default_rng(8)
    groups = [sample_group(rng) for _ in range(3)]
    rows = lesson_rows(writer, rng, 10_000, RewardRecipe(), groups)
    texts = {
        tuple(writer.tokenizer(PRESETS[name].text).input_ids): name
        for name in INSTRUCTIONS
    }  # fmt: skip
    checked = 0
    for row in rows:
        reference = [item.index for item in row.prefix if isinstance(item, Picture)]
        single = [branch for branch in row.branches if branch.answer in ((writer.yes,), (writer.no,))]
        if not reference or not single:
            continue
        tokens = [item for item in row.prefix if not isinstance(item, Picture)]
        (name,) = (name for ids, name in texts.items() if str(list(ids))[1:-1] in str(tokens))
        drawn = groups[reference[0] // 6]
        for branch in single:
            (index,) = (item.index for item in branch.question if isinstance(item, Picture))
            sides = [marks(drawn.pictures[number % 6], drawn.spec) for number in (index, reference[0])]
            assert (branch.answer == (writer.yes,)) is preferred(name, *sides)
            checked += 1
    assert checked > 8


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_every_word_of_a_prompt_is_one_token_of_the_judge(nano_tokenizer, kind):
    for spec in all_prompts(kind):
        assert len(nano_tokenizer(f"Prompt: {spec.text}\n").input_ids) == len(spec.text.split()) + 3


def test_other_text_falls_to_bytes_and_comes_back(nano_tokenizer):
    text = "Ein grüner Stern, 星 — ★!"
    assert nano_tokenizer.decode(nano_tokenizer(text).input_ids) == text
