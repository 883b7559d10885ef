"""Vision-language models with random weights and real processors, in any size: for tests and for timing.

Real tokenizers and weights cannot be had everywhere; speed and memory depend on neither, and exactness can be checked
on any weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

KINDS: Final = ("internvl-qwen2", "internvl-llama", "internvl-qwen3", "qwen2_5_vl", "qwen3_vl")
_TURNS: Final = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_QWEN: Final = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_INTERNVL: Final = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_VIDEOS: Final = {
    "internvl": "InternVLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
}
_SCALES: Final = {
    "qwen2_5_vl": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "qwen3_vl": (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
}
_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PLACE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS: Final = (
    "yes no Yes No Verdict: Judge the image as a whole: first it must match the prompt, then it must look good and be "
    "well formed. Judged by this instruction, is the candidate better than the reference? good? Answer or Explain, "
    "then answer yes or no. Prompt: Reference: Candidate: user assistant system a photo of red star"
)


@dataclass(frozen=True)
class Size:
    """Widths and depths of the two halves of a model, and the side of the pictures it takes.

    Attributes:
        text, vision: width, depth, heads and width of the feed-forward layers.
        key_value_heads: of the language model.
        picture: side of a tile (InternVL) or of the largest picture (Qwen), in pixels.
        patch: side of a patch.
        vocabulary: size of the embedding table; the tokenizer's own where it is larger.
    """

    text: tuple[int, int, int, int]
    vision: tuple[int, int, int, int]
    key_value_heads: int
    picture: int
    patch: int
    vocabulary: int = 0


SIZES: Final = {
    "tiny": Size((64, 3, 4, 96), (48, 3, 4, 96), 2, picture=56, patch=14),
    "mid": Size((384, 10, 6, 1536), (320, 8, 5, 1280), 2, picture=224, patch=14, vocabulary=32000),
    "2b": Size((1536, 28, 12, 8960), (1024, 24, 16, 4096), 2, picture=448, patch=14, vocabulary=151936),
    "8b": Size((3584, 28, 28, 18944), (1024, 24, 16, 4096), 4, picture=448, patch=14, vocabulary=151936),
    "26b": Size((6144, 48, 48, 16384), (3200, 45, 25, 12800), 8, picture=448, patch=14, vocabulary=92553),
}
"""The large ones have the dimensions of InternVL3-2B, InternVL3-8B and InternVL2.5-26B."""


def build_tokenizer(special: list[str] | dict[str, str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that has the words of the judge's question."""
    names = special if isinstance(special, dict) else {token.strip("<|>"): token for token in special}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[*_TURNS, *names.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_TURNS[0], eos_token=_TURNS[2], extra_special_tokens=names
    )


def build(kind: str, size: Size, folder: Path, seed: int = 0) -> PreTrainedModel:
    """Make a model, in the precision and on the device that torch makes things by default, and write its processor.

    Args:
        kind: one of :data:`KINDS`.
        size: how large.
        folder: where tokenizer, processor and chat template go; `model.save_pretrained(folder)` completes it.
        seed: of the weights.
    """
    family, _, text = kind.partition("-")
    tokenizer = build_tokenizer(_INTERNVL if family == "internvl" else _QWEN)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _internvl(tokenizer, size, text) if family == "internvl" else _qwen(family, tokenizer, size)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    patch = size.patch
    if family == "internvl":
        tokens = (size.picture // patch // 2) ** 2
        place, processor = "<IMG_CONTEXT>", {"processor_class": "InternVLProcessor", "image_seq_length": tokens}
        side = {"height": size.picture, "width": size.picture}
        pictures = {"image_processor_type": "GotOcr2ImageProcessor", "size": side, "max_patches": 4}
    else:
        place = "<|vision_start|><|image_pad|><|vision_end|>"
        name = "Qwen2_5_VLProcessor" if family == "qwen2_5_vl" else "Qwen3VLProcessor"
        processor = {"processor_class": name}
        limits = {"shortest_edge": 4 * patch * patch, "longest_edge": size.picture**2}
        pictures = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": patch, "size": limits}
        means, deviations = _SCALES[family]  # vLLM scales pictures by what is written here, and by nothing else
        pictures |= {"image_mean": means, "image_std": deviations}
    videos = {**pictures, "video_processor_type": _VIDEOS[family]}  # read where torchvision is installed
    videos.pop("image_processor_type")
    for name, content in (("", pictures), ("video_", videos)):
        (folder / f"{name}preprocessor_config.json").write_text(json.dumps(content))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").write_text(_TEMPLATE.replace("PLACE", place))
    return model


def _text(tokenizer: PreTrainedTokenizerFast, size: Size) -> dict[str, Any]:
    width, depth, heads, inner = size.text
    return {
        "vocab_size": max(size.vocabulary, len(tokenizer)),
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": size.key_value_heads,
        "head_dim": width // heads,
        "intermediate_size": inner,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }


def _internvl(tokenizer: PreTrainedTokenizerFast, size: Size, text: str) -> PreTrainedModel:
    width, depth, heads, inner = size.vision
    vision = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "image_size": [size.picture] * 2,
        "patch_size": [size.patch] * 2,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config={**_text(tokenizer, size), "model_type": text},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(size.picture // size.patch // 2) ** 2,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config)


def _qwen(family: str, tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    width, depth, heads, inner = size.vision
    text = _text(tokenizer, size)
    half = text["head_dim"] // 2
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6}
    if family == "qwen3_vl":  # transformers interleaves them in any case, vLLM where it is told to
        side = 5 * half // 16
        rope["mrope_interleaved"] = True
    else:
        side = 3 * half // 8
    text["rope_parameters"] = {**rope, "mrope_section": [half - 2 * side, side, side]}
    vision: dict[str, Any] = {
        "depth": depth,
        "hidden_size": width,
        "num_heads": heads,
        "intermediate_size": inner,
        "out_hidden_size": text["hidden_size"],
        "patch_size": size.patch,
    }
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(_QWEN), strict=True))
    layers = [max(0, depth * place // 4 - 1) for place in (1, 2)]
    if family == "qwen2_5_vl":
        vision |= {"window_size": 4 * size.patch, "fullatt_block_indexes": layers}
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids))
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": sorted(set(layers))}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **ids))
