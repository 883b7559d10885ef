"""The question put to the model, as chat messages.

What is the same for all candidates comes first (instruction, prompt, question, reference), so that it can be computed
once for many of them. The prompt is said again after the candidate: a causal model compares words with a picture far
more easily where the words come later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .instructions import Instruction

PAIRWISE_QUESTION: Final = "Judged by this instruction, is the candidate better than the reference?"
POINTWISE_QUESTION: Final = "Judged by this instruction, is the candidate good?"
DIRECT: Final = "Answer yes or no."
EXPLAINED: Final = "Explain, then answer yes or no."
VERDICT: Final = "Verdict:"
"""What a chain of thought writes just before its yes or no."""

Message = dict[str, Any]
Part = dict[str, str]
"""A stretch of text, or a picture's place."""
IMAGE: Final[Part] = {"type": "image"}


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def question(
    instruction: Instruction,
    prompt: str,
    *,
    pairwise: bool,
    explain: bool,
    candidate: Sequence[Part] = (IMAGE,),
    reference: Sequence[Part] = (IMAGE,),
    first_frame: bool = False,
) -> list[Message]:
    """The chat messages of one judgement, with an image placeholder for each picture.

    Args:
        instruction: what to judge by; its examples become earlier turns of the chat.
        prompt: what the picture was to show.
        pairwise: whether a reference comes before the candidate.
        explain: whether to ask for a chain of thought.
        candidate, reference: what stands for each: a picture's place, or the places of a video's frames and the words
            between them.
        first_frame: whether the picture that a video was to begin with comes before them.

    Returns:
        Messages for `processor.apply_chat_template`. The placeholders stand, in order, for the pictures of the
        instruction's examples, then the first frame (if any), the reference (if pairwise), and the candidate.
    """
    messages: list[Message] = []
    for example in instruction.examples:
        against = (IMAGE,) if example.reference is not None else None
        messages.append(_ask(instruction, example.prompt, (IMAGE,), against, first_frame=False, explain=False))
        messages.append({"role": "assistant", "content": [_text("yes" if example.verdict else "no")]})
    return [*messages, _ask(instruction, prompt, candidate, reference if pairwise else None, first_frame, explain)]


def _ask(
    instruction: Instruction,
    prompt: str,
    candidate: Sequence[Part],
    reference: Sequence[Part] | None,
    first_frame: bool,
    explain: bool,
) -> Message:
    asked = POINTWISE_QUESTION if reference is None else PAIRWISE_QUESTION
    opening = f"{instruction.text}\nPrompt: {prompt}\n{asked} {EXPLAINED if explain else DIRECT}\n"
    shown: dict[str, Sequence[Part]] = {"First frame": (IMAGE,)} if first_frame else {}
    shown |= {"Candidate": candidate} if reference is None else {"Reference": reference, "Candidate": candidate}
    content: list[Part] = []
    for name, parts in shown.items():
        content += [_text(f"{opening}{name}:"), *parts]
        opening = "\n"
    return {"role": "user", "content": [*content, _text(f"\nPrompt: {prompt}")]}


RERANKER_SYSTEM: Final = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)


def reranker_question(instruction: Instruction, prompt: str, document: Sequence[Part] = (IMAGE,)) -> list[Message]:
    """One judgement in the words of Qwen3-VL-Reranker, as published with the model: the prompt is its query."""
    asked = (_text(text) for text in (f"<Instruct>: {instruction.text}", "<Query>:", prompt, "\n<Document>:"))
    return [
        {"role": "system", "content": [_text(RERANKER_SYSTEM)]},
        {"role": "user", "content": [*asked, *document]},
    ]


def frame_label(number: int) -> str:
    """The words before a frame of a video that is shown as numbered pictures, as InternVL is."""
    return f"Frame{number}: "


def numbered_frames(count: int) -> list[Part]:
    """The places of a video's frames and the words between them."""
    parts: list[Part] = []
    for number in range(1, count + 1):
        parts += [_text(("\n" if number > 1 else "") + frame_label(number)), IMAGE]
    return parts
