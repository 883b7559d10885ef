"""Rewards into advantages: how much better a picture is than the others of its prompt."""

from __future__ import annotations

from torch import Tensor


def group_advantages(rewards: Tensor, spread: Tensor | None = None, limit: float = 5.0) -> Tensor:
    """(reward - mean of its group) / standard deviation, in [-limit, limit] (GRPO, arXiv 2402.03300).

    Args:
        rewards: float [groups, group size].
        spread: the standard deviation to divide by, a scalar over all groups (Flow-GRPO, DiffusionNFT); None for each
            group's own. One over all leaves groups that are nearly all alike with small advantages.
        limit: the largest advantage.

    Returns:
        float [groups, group size].
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    scale = rewards.std(1, keepdim=True, correction=0) if spread is None else spread
    return (centred / (scale + 1e-4)).clamp(-limit, limit)
