"""Build an untrained nano reward model: a real InternVL with a small Qwen2 inside, its tokenizer and its processor."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from ..rewards import prompts
from ..rewards.instructions import PRESETS
from .preferences import INSTRUCTIONS, rationale, sample_group, statements
from .scenes import IMAGE_SIZE, PROMPT_KINDS, all_prompts

DESCRIBE: Final = "Describe the image."
CHECK: Final = "Judge the image."
CONTEXT: Final = "<IMG_CONTEXT>"
SPECIAL: Final = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": CONTEXT,
    "video_token": "<video>",
}
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Architecture:
    """Width, depth and heads of the vision tower and of the language model. Heads are 32 to 64 channels wide."""

    name: str
    vision_width: int
    vision_depth: int
    vision_heads: int
    text_width: int
    text_depth: int
    text_heads: int


ARCHITECTURES: Final = {
    item.name: item
    for item in (
        Architecture("reward-5m", 192, 4, 4, 256, 4, 4),
        Architecture("reward-1m", 96, 3, 3, 128, 3, 4),
        Architecture("reward-400k", 64, 3, 2, 80, 3, 2),
        Architecture("reward-200k", 48, 2, 2, 64, 2, 2),
    )
}
PATCH: Final = 8
TOKENS_PER_IMAGE: Final = (IMAGE_SIZE // PATCH // 2) ** 2


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which every word of the nano world is one token; other text falls to bytes."""
    rng = np.random.default_rng(0)
    texts = [DESCRIBE, CHECK, "user\n", "assistant\n", "system\n", "yes", "no", " yes", " no", f" {prompts.VERDICT}"]
    texts += [spec.text for kind in PROMPT_KINDS for spec in all_prompts(kind)]
    for instruction, pairwise, explain in itertools.product(PRESETS.values(), (True, False), (True, False)):
        for message in prompts.question(instruction, "a photo", pairwise=pairwise, explain=explain):
            texts += [part["text"] for part in message["content"] if part["type"] == "text"]
    for _ in range(300):
        group = sample_group(rng)
        texts += [rationale(name, group.spec, *group.pictures[:2]) for name in INSTRUCTIONS]
        texts += [f" {text}: yes, no" for text, _ in statements(rng, group.pictures[0], 8)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        special_tokens=[*ends, *SPECIAL.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL,
        model_max_length=4096,
        padding_side="left",
    )


def save_processor(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the processor of an InternVL for 64x64 pictures, scaled to [-1, 1], 16 tokens each.

    Written piece by piece because an `InternVLProcessor` object cannot exist without torchvision (its video half
    needs it), and training a nano model should not.
    """
    pictures = {
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    tokenizer.save_pretrained(folder)
    GotOcr2ImageProcessorPil(crop_to_patches=False, **pictures).save_pretrained(folder)
    videos = {"video_processor_type": "InternVLVideoProcessor", **pictures}
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": TOKENS_PER_IMAGE}
    for name, content in (("video_preprocessor_config", videos), ("processor_config", processor)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> InternVLForConditionalGeneration:
    """An untrained model whose vocabulary is the tokenizer's."""
    config = InternVLConfig(
        vision_config={
            "hidden_size": architecture.vision_width,
            "num_hidden_layers": architecture.vision_depth,
            "num_attention_heads": architecture.vision_heads,
            "intermediate_size": 4 * architecture.vision_width,
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "patch_size": [PATCH, PATCH],
            "layer_scale_init_value": 0.5,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": architecture.text_width,
            "num_hidden_layers": architecture.text_depth,
            "num_attention_heads": architecture.text_heads,
            "num_key_value_heads": architecture.text_heads // 2,
            "intermediate_size": 2 * architecture.text_width,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(CONTEXT),
        image_seq_length=TOKENS_PER_IMAGE,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
