"""Train a reward model on preferences: any vision-language model that can judge, with LoRA or whole.

See docs/reward-training.md.
"""

from __future__ import annotations

from .config import RewardTraining, TrainingError
from .trainer import train_reward_model

__all__ = ["RewardTraining", "TrainingError", "train_reward_model"]
