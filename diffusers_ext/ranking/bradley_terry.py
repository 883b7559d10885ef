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
        moved = np.abs(np.log(updated) - np.log(strength)).max(initial=0.0)
        strength = updated
        if moved < tolerance:
            break
    return np.log(strength)
