"""How videos stand in the questions that a nano model is trained on: as an InternVL's numbered frames."""

from __future__ import annotations

from typing import Final

from ...rewards import prompts

SHOWN: Final = 4
"""Frames that are shown of a video."""


def shown_frames(total: int, count: int = SHOWN) -> tuple[int, ...]:
    """Which of `total` frames are shown: the middles of `count` equal stretches, as a judge samples them."""
    return tuple(int((index + 0.5) * total / count) for index in range(count)) if count < total else tuple(range(total))


def numbered(frame: int) -> str:
    """The words before a frame."""
    return f"Frame{frame}: "


def parts(shown: int) -> list[prompts.Part]:
    """The places of a video's frames and the words between them."""
    found: list[prompts.Part] = []
    for frame in range(1, shown + 1):
        found += [{"type": "text", "text": ("\n" if frame > 1 else "") + numbered(frame)}, prompts.IMAGE]
    return found


def request(text: str, shown: int) -> list[prompts.Message]:
    """A request about one video, as chat messages."""
    return [{"role": "user", "content": [{"type": "text", "text": f"{text}\n"}, *parts(shown)]}]
