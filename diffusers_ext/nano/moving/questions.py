"""How videos stand in the questions that a nano model is trained on: as an InternVL's numbered frames."""

from __future__ import annotations

from typing import Final

from ...rewards import prompts

SHOWN: Final = 4
"""Frames that are shown of a video."""


def request(text: str, shown: int) -> list[prompts.Message]:
    """A request about one video, as chat messages."""
    return [{"role": "user", "content": [{"type": "text", "text": f"{text}\n"}, *prompts.numbered_frames(shown)]}]
