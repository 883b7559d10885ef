"""Train a reward model on preferences: any vision-language model that can judge, with LoRA or whole.

See docs/reward-training.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .config import RewardTraining, TrainingError
from .trainer import train_reward_model

ACCELERATE_CONFIGS: Final = Path(__file__).parent / "accelerate"
"""Files for `accelerate launch --config_file`: ddp.yaml, fsdp.yaml and deepspeed.yaml."""

__all__ = ["ACCELERATE_CONFIGS", "RewardTraining", "TrainingError", "train_reward_model"]
