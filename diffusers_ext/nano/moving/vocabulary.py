"""The words that videos need and that the still world's tokenizer would spell letter by letter."""

from __future__ import annotations

from typing import Final

import torch
from tokenizers import AddedToken
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from ...rewards.prompts import frame_label
from .preferences import BADLY, SMOOTHLY
from .scenes import DIRECTIONS, FRAMES, SPEEDS

SPOKEN: Final = ("standing", "still", "moving", *DIRECTIONS, *SPEEDS, *SMOOTHLY, *BADLY, "Motion", "Fidelity")
WORDS: Final = (
    *(f" {word}" for word in dict.fromkeys(SPOKEN)),
    "First",
    *(frame_label(frame) for frame in range(1, FRAMES + 1)),
)


def teach_words(model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Add the words that are missing to both, each with the mean of its pieces' embeddings to start from."""
    spelled = {word: tokenizer(word).input_ids for word in WORDS}
    new = {word: pieces for word, pieces in spelled.items() if len(pieces) > 1}
    if not new:
        return
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in new])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weights = model.get_input_embeddings().weight
    with torch.no_grad():
        for word, pieces in new.items():
            weights[tokenizer.convert_tokens_to_ids(word)] = weights[pieces].mean(0)
