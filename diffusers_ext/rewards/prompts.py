"""The question put to the model, as chat messages.

What is the same for all candidates comes first (instruction, prompt, question, reference), so that it can be computed
once for many of them. The prompt is said again after the candidate: a causal model compares words with a picture far
more easily where the words come later.
"""

from __future__ import annotations

from typing import Any, Final

from .instructions import Instruction

PAIRWISE_QUESTION: Final = "Judged by this instruction, is the candidate better than the reference?"
POINTWISE_QUESTION: Final = "Judged by this instruction, is the candidate good?"
DIRECT: Final = "Answer yes or no."
EXPLAINED: Final = "Explain, then answer yes or no."
VERDICT: Final = "Verdict:"
"""What a chain of thought writes just before its yes or no."""

Message = dict[str, Any]
IMAGE: Final[dict[str, str]] = {"type": "image"}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def question(instruction: Instruction, prompt: str, *, pairwise: bool, explain: bool) -> list[Message]:
    """The chat messages of one judgement, with an image placeholder for each picture.

    Args:
        instruction: what to judge by; its examples become earlier turns of the chat.
        prompt: what the picture was to show.
        pairwise: whether a reference comes before the candidate.
        explain: whether to ask for a chain of thought.

    Returns:
        Messages for `processor.apply_chat_template`. The placeholders stand, in order, for the pictures of the
        instruction's examples, then the reference (if pairwise), then the candidate.
    """
    messages: list[Message] = []
    for example in instruction.examples:
        messages.append(_ask(instruction, example.prompt, example.reference is not None, explain=False))
        messages.append({"role": "assistant", "content": [_text("yes" if example.verdict else "no")]})
    return [*messages, _ask(instruction, prompt, pairwise, explain)]


def _ask(instruction: Instruction, prompt: str, pairwise: bool, explain: bool) -> Message:
    asked = PAIRWISE_QUESTION if pairwise else POINTWISE_QUESTION
    opening = f"{instruction.text}\nPrompt: {prompt}\n{asked} {EXPLAINED if explain else DIRECT}\n"
    ending = _text(f"\nPrompt: {prompt}")
    content = [_text(f"{opening}Candidate:"), IMAGE, ending]
    if pairwise:
        content = [_text(f"{opening}Reference:"), IMAGE, _text("\nCandidate:"), IMAGE, ending]
    return {"role": "user", "content": content}
