from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from diffusers_ext.rewards.model import RewardModel

TURNS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PLACE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
}


def tokenizer_of(special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = "yes no Yes No yes no Verdict: the image a red star Judge whether candidate reference better prompt"
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[*TURNS, *(special.values() if isinstance(special, dict) else special)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words] * 4, trainer)
    extra = special if isinstance(special, dict) else {token.strip("<|>"): token for token in special}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=TURNS[0], eos_token=TURNS[2], extra_special_tokens=extra
    )


def internvl(tokenizer, text):
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config={
                "hidden_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 96,
                "image_size": [56, 56],
                "patch_size": [14, 14],
            },
            text_config={**TEXT, "model_type": text, "vocab_size": len(tokenizer), "head_dim": 16},
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=4,
        )
    )


def qwen_text(tokenizer):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    return {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, "head_dim": 16}


def qwen_ids(tokenizer):
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(QWEN), strict=True))


def qwen2_5_vl(tokenizer):
    vision = {
        "depth": 3,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": TEXT["hidden_size"],
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=qwen_text(tokenizer), **qwen_ids(tokenizer))
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(tokenizer):
    vision = {
        "depth": 3,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_heads": 4,
        "out_hidden_size": TEXT["hidden_size"],
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    config = Qwen3VLConfig(vision_config=vision, text_config=qwen_text(tokenizer), **qwen_ids(tokenizer))
    return Qwen3VLForConditionalGeneration(config)


def save(kind, folder):
    family, _, text = kind.partition("-")
    if family == "internvl":
        tokenizer = tokenizer_of(INTERNVL)
        model = internvl(tokenizer, text)
        place, processor = "<IMG_CONTEXT>", {"processor_class": "InternVLProcessor", "image_seq_length": 4}
        pictures = {"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 56, "width": 56}}
        pictures |= {"crop_to_patches": True, "max_patches": 4}
    else:
        tokenizer = tokenizer_of(QWEN)
        model = qwen2_5_vl(tokenizer) if family == "qwen2_5_vl" else qwen3_vl(tokenizer)
        place = "<|vision_start|><|image_pad|><|vision_end|>"
        name = "Qwen2_5_VLProcessor" if family == "qwen2_5_vl" else "Qwen3VLProcessor"
        processor = {"processor_class": name}
        patch = model.config.vision_config.patch_size
        pictures = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": patch, "merge_size": 2}
        pictures |= {"size": {"shortest_edge": 4 * patch * patch, "longest_edge": 80 * patch * patch}}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)  # as it is drawn, it hardly sees the pictures
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("PLACE", place))


KINDS = ("internvl-qwen2", "internvl-llama", "internvl-qwen3", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="session")
def judge_of(tmp_path_factory):
    judges = {}

    def load(kind):
        if kind not in judges:
            folder = tmp_path_factory.mktemp("vlm") / ("tiny-reranker" if kind == "reranker" else "tiny")
            folder.mkdir()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                save("qwen3_vl" if kind == "reranker" else kind, folder)
            judges[kind] = RewardModel.from_pretrained(folder, device="cpu")
        return judges[kind]

    return load


@pytest.fixture(scope="session", params=KINDS)
def judge(request, judge_of):
    return judge_of(request.param)


@pytest.fixture(scope="session")
def reranker(judge_of):
    return judge_of("reranker")


@pytest.fixture(scope="session")
def sized_pictures():
    rng = np.random.default_rng(1)
    sizes = ((56, 56), (120, 60), (64, 112), (56, 56), (200, 90), (33, 47))
    shades = [
        np.kron(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))[:height, :width]
        for width, height in sizes
    ]
    return [Image.fromarray(shade.astype(np.uint8)) for shade in shades]
