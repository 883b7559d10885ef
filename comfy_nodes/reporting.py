"""Verdicts as a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers_ext.rewards.judgement import Judgement


def report(judgements: Sequence[Judgement]) -> str:
    """A line for each verdict: the number of its picture (from 1), its reward, and its explanation if it has one."""
    lines = (f"{item.candidate + 1}: {item.reward:.3f} {_one_line(item.explanation)}" for item in judgements)
    return "\n".join(line.rstrip() for line in lines)


def _one_line(explanation: str | None) -> str:
    return " ".join((explanation or "").split())
