"""Qwen3-VL-Reranker: Qwen3-VL trained to say whether a document meets a query; here, a picture and its prompt.

Its own chat (system prompt and tags, as published with the model) is the only one it knows, so it judges pointwise
and at once; its score is the difference of exactly the tokens "yes" and "no".
"""

from __future__ import annotations

from typing import Any

from .. import prompts
from ..errors import ModelError
from ..instructions import Instruction
from ..tokens import TokenGroups
from .qwen3_vl import Qwen3VL


class Qwen3VLReranker(Qwen3VL):
    compares = False
    explains = False

    def answer_tokens(self) -> TokenGroups:
        words = self.tokenizer.get_vocab()
        if "yes" not in words or "no" not in words:
            raise ModelError("the tokenizer of this reranker has no token for 'yes' or 'no'")
        return TokenGroups((words["yes"],), (words["no"],))

    def messages(
        self, by: Instruction, prompt: str, *, pairwise: bool, explain: bool, **shown: Any
    ) -> list[prompts.Message]:
        if pairwise or explain or any(example.reference for example in by.examples):
            raise ModelError(
                "Qwen3-VL-Reranker judges one picture at a time and at once: use score, or the ranking method "
                "'pointwise', without a reference, examples with one, or an explanation"
            )
        if shown.get("first_frame"):
            raise ModelError("Qwen3-VL-Reranker takes no first frame: it judges a video by its prompt alone")
        if by.examples:
            raise ModelError(f"instruction {by.name!r} has examples, and Qwen3-VL-Reranker takes none")
        return prompts.reranker_question(by, prompt, shown.get("candidate", (prompts.IMAGE,)))
