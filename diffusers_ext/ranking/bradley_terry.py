"""Strengths from pairwise outcomes."""

from __future__ import annotations

import numpy as np


def bradley_terry(
    wins: np.ndarray, prior: float = 0.1, tolerance: float = 1e-10, max_iterations: int = 10_000
) -> np.ndarray:
    """Maximum-likelihood strengths of the Bradley-Terry model, P(i beats j) = sigmoid(s_i - s_j).

    Solved by the minorisation-maximisation of Hunter (2004), "MM algorithms for generalized Bradley-Terry models".

    Args:
        wins: float [n, n], `wins[i, j]` how often i beat j; fractions are welcome, so probabilities can be put in as
            they are. The diagonal is ignored.
        prior: this much of a win and of a loss for everyone against an imagined opponent of strength zero, which keeps
            the strengths finite where somebody won or lost every time.
        tolerance: stop once no strength moves by more than this.
        max_iterations: stop then at the latest.

    Returns:
        float64 [n], the strengths s, in log-odds.
    """
    won = np.array(wins, dtype=np.float64)
    if won.ndim != 2 or won.shape[0] != won.shape[1] or not np.isfinite(won).all() or (won < 0).any():
        raise ValueError(f"wins must be a square array of finite numbers >= 0, got shape {won.shape}")
    np.fill_diagonal(won, 0.0)
    played = won + won.T
    total = won.sum(1) + prior
    strength = np.ones(len(won))
    for _ in range(max_iterations):
        opposition = (played / (strength[:, None] + strength[None, :])).sum(1) + 2 * prior / (strength + 1.0)
        updated = np.divide(total, opposition, out=np.ones_like(total), where=opposition > 0)
        updated *= np.exp(_shift(np.log(updated)))
        moved = np.abs(np.log(updated) - np.log(strength)).max(initial=0.0)
        strength = updated
        if moved < tolerance:
            break
    return np.log(strength)


def _shift(log_strength: np.ndarray) -> float:
    """What to add to all strengths to maximise the prior's part of the likelihood; the outcomes do not depend on it.

    Without this step the common level drifts to its place ever more slowly the more games there are.
    """
    shift = 0.0
    for _ in range(50):
        tanh = np.tanh((log_strength + shift) / 2)
        step = np.clip(tanh.sum() / max(1e-12, 0.5 * (1 - tanh**2).sum()), -1.0, 1.0)
        shift -= step
        if abs(step) < 1e-12:
            break
    return shift
