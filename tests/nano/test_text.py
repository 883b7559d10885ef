import numpy as np
import torch

from diffusers_ext.nano.autoencoder import build_autoencoder
from diffusers_ext.nano.generator import Trainable, build_pipeline, tokenize
from diffusers_ext.nano.scenes import PROMPT_KINDS, all_prompts, parse_prompt
from diffusers_ext.nano.text import SLOTS, slots, teach_words


def test_slots_tell_all_prompts_apart():
    prompts = [spec for kind in PROMPT_KINDS for spec in all_prompts(kind)]
    found = [slots(spec) for spec in prompts]
    assert len(set(found)) == len(prompts)
    assert all(0 <= value < size for values in found for value, size in zip(values, SLOTS, strict=True))


def test_slots_by_hand():
    assert slots(parse_prompt("a photo of three squares")) == (2, 0, 2, 0, 0, 0)
    assert slots(parse_prompt("a photo of a red circle and a blue square")) == (1, 1, 0, 0, 2, 3)
    assert slots(parse_prompt("a photo of a circle left of a square")) == (1, 0, 0, 1, 2, 0)


def test_words_are_learned_and_the_pipeline_sees_them():
    torch.manual_seed(0)
    pipeline = build_pipeline(build_autoencoder())
    model = Trainable(pipeline)
    before = model.last(tokenize(pipeline.tokenizer, ["a photo of a red star"]))[1].detach().clone()
    share = teach_words(
        lambda texts: model.last(tokenize(pipeline.tokenizer, list(texts))),
        [*model.text_encoder.parameters(), *model.text_encoder_2.parameters()],
        np.random.default_rng(0),
        steps=40,
        batch_size=48,
        learning_rate=2e-3,
    )
    assert share > 0.6  # chance is 0.23
    pooled = pipeline.encode_prompt("a photo of a red star", None, None, max_sequence_length=1)[2]
    assert not torch.allclose(pooled, before)
    assert torch.allclose(pooled, model.last(tokenize(pipeline.tokenizer, ["a photo of a red star"]))[1], atol=1e-5)
